// What `fused_kernel` (src/celldetr/model/deformable_kernels.py) does, on the same arrays, as one would write it in C++:
// point by point, channels left to the compiler's vectoriser. For comparison only: compiled by
// benchmarks/deformable_attention.py; the package itself needs no compiler.
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

// total += weight * the bilinear sample at a point of a level, whose first pixel is `level`
template <int D>
inline void sample(float *total, float weight, float x, float y, const float *level, int width, int height, int row) {
    x = x * width - 0.5f;
    y = y * height - 0.5f;
    if (!(x >= -1 && x < width && y >= -1 && y < height)) return;
    const float before_x = std::floor(x), before_y = std::floor(y);
    const int left = static_cast<int>(before_x), top = static_cast<int>(before_y);
    const float right = x - before_x, low = y - before_y;
    const float lower = weight * low, upper = weight - lower;
    const float *pixel = level + (static_cast<int64_t>(top) * width + left) * row;
    auto add = [&](float factor, const float *__restrict from) {
        for (int i = 0; i < D; i++) total[i] += factor * from[i];
    };
    if (top >= 0) {
        if (left >= 0) add(upper * (1 - right), pixel);
        if (left + 1 < width) add(upper * right, pixel + row);
    }
    pixel += static_cast<int64_t>(width) * row;
    if (top + 1 < height) {
        if (left >= 0) add(lower * (1 - right), pixel);
        if (left + 1 < width) add(lower * right, pixel + row);
    }
}

template <int D>
void run(const float *value, const int64_t *shapes, const float *offsets, const float *logits, const float *reference,
         const float *ratios, float margin, float *out, int64_t pixels, int64_t queries, int heads, int levels,
         int points, int axes, int64_t start, int64_t stop) {
    const int row = heads * D, count = levels * points;
    float factors[256], reach[64];
    for (int64_t item = start; item < stop; item++) {
        const int64_t b = item / queries;
        const float *box = reference + item * axes;
        for (int level = 0; level < levels; level++)
            for (int axis = 0; axis < 2; axis++) {
                if (axes == 2) {
                    reach[2 * level + axis] = 1.0f / shapes[2 * level + 1 - axis];
                } else {
                    const float half = box[2 + axis] * 0.5f * ratios[(b * levels + level) * 2 + axis];
                    reach[2 * level + axis] = margin > 0 ? half * margin : half / points;
                }
            }
        for (int h = 0; h < heads; h++) {
            const float *given = logits + (item * heads + h) * count;
            const float highest = *std::max_element(given, given + count);
            float sum = 0;
            for (int i = 0; i < count; i++) sum += factors[i] = std::exp(given[i] - highest);
            const float scale = 1 / sum;
            float total[D] = {};
            const float *level_start = value + (b * pixels * heads + h) * D;
            const float *offset = offsets + (item * heads + h) * count * 2;
            for (int level = 0; level < levels; level++) {
                const int height = shapes[2 * level], width = shapes[2 * level + 1];
                const float *ratio = ratios + (b * levels + level) * 2;
                const float x0 = box[0] * ratio[0], y0 = box[1] * ratio[1];
                for (int p = 0; p < points; p++, offset += 2) {
                    float dx = offset[0], dy = offset[1];
                    if (margin > 0) dx = std::tanh(dx), dy = std::tanh(dy);
                    sample<D>(total, factors[level * points + p] * scale, x0 + dx * reach[2 * level],
                              y0 + dy * reach[2 * level + 1], level_start, width, height, row);
                }
                level_start += static_cast<int64_t>(height) * width * row;
            }
            std::copy(total, total + D, out + (item * heads + h) * D);
        }
    }
}

}  // namespace

// Queries start <= b * Q + q < stop, as in `fused_kernel`; returns 0, or 1 for a D that was not compiled.
extern "C" int fused(const float *value, const int64_t *shapes, const float *offsets, const float *logits,
                     const float *reference, const float *ratios, float margin, float *out, int64_t pixels,
                     int64_t queries, int heads, int levels, int points, int channels, int axes, int64_t start,
                     int64_t stop) {
    auto *kernel = channels == 16 ? run<16> : channels == 32 ? run<32> : nullptr;
    if (!kernel || levels * points > 256 || levels > 32) return 1;
    kernel(value, shapes, offsets, logits, reference, ratios, margin, out, pixels, queries, heads, levels, points, axes,
           start, stop);
    return 0;
}
