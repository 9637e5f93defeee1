// Draw the cells of a view: outlines when near, dots farther away, their density when they would cover one another.

import { HIDDEN, rgb, type SlideCells } from "./cells";

const OUTLINES_BELOW = 1.1; // um per pixel: a nucleus is then some seven pixels wide
const MOST_OUTLINES = 6_000;
const MOST_DOTS = 45_000;
const BIN = 4; // px a side of the density's bins
const PALE = 0.2; // opacity of what is not marked, where something is
const MARGIN_UM = 40; // around the view: centres outside whose outlines reach in

export type Mode = "outlines" | "dots" | "density";

export interface Frame {
  left: number; // of the canvas, um
  top: number;
  width: number; // px of the canvas
  height: number;
  scale: number; // px per um
  ratio: number; // px of the canvas per px of the page
  dot: number; // radius of a dot where that is not too small or large, in units of the points
}

/** Points with the colours of their cells: where these are on the slide, or on the embedding map. */
export interface Layer {
  points: Float32Array;
  shade: Uint16Array;
  palette: string[];
  ordered: boolean;
  marked: Uint8Array | null;
}

/** Draw all shown cells of a slide in a frame; `arrived` is called when outlines have come that it lacked. */
export function drawCells(context: CanvasRenderingContext2D, cells: SlideCells, frame: Frame, arrived: () => void): Mode {
  const layer = { ...colours(cells), points: cells.centres };
  const rows = rowsIn(layer, frame, MARGIN_UM);
  if (frame.ratio / frame.scale >= OUTLINES_BELOW || rows.length > MOST_OUTLINES) return drawPoints(context, layer, frame, rows);
  parts(context, layer, rows, (some, marked) => outlines(context, cells, layer, frame, some, marked, arrived));
  return "outlines";
}

export const colours = ({ shade, palette, ordered, marked }: SlideCells) => ({ shade, palette, ordered, marked });

/** Draw points as dots, or as their density. */
export function drawPoints(context: CanvasRenderingContext2D, layer: Layer, frame: Frame, rows = rowsIn(layer, frame, 0)): Mode {
  const dense = rows.length > MOST_DOTS;
  parts(context, layer, rows, (some) => (dense ? density : dots)(context, layer, frame, some));
  return dense ? "density" : "dots";
}

/** Draw what is marked over the rest, which is pale then. */
function parts(
  context: CanvasRenderingContext2D,
  { marked }: Layer,
  rows: Uint32Array,
  draw: (rows: Uint32Array, marked: number | null) => void,
): void {
  if (!marked) return draw(rows, null);
  context.globalAlpha = PALE;
  draw(rows.filter((i) => !marked[i]), 0);
  context.globalAlpha = 1;
  draw(rows.filter((i) => marked[i]), 1);
}

function rowsIn({ points, shade }: Layer, frame: Frame, margin: number): Uint32Array {
  const left = frame.left - margin;
  const top = frame.top - margin;
  const right = frame.left + frame.width / frame.scale + margin;
  const bottom = frame.top + frame.height / frame.scale + margin;
  const rows = new Uint32Array(shade.length);
  let count = 0;
  for (let i = 0; i < shade.length; i++) {
    const x = points[2 * i];
    const y = points[2 * i + 1];
    if (x >= left && x <= right && y >= top && y <= bottom && shade[i] !== HIDDEN) rows[count++] = i;
  }
  return rows.subarray(0, count);
}

function outlines(
  context: CanvasRenderingContext2D,
  cells: SlideCells,
  layer: Layer,
  frame: Frame,
  rows: Uint32Array,
  marked: number | null,
  arrived: () => void,
): void {
  const side = cells.slide.square;
  const paths = new Map<number, Path2D>();
  const first = [Math.floor((frame.left - MARGIN_UM) / side), Math.floor((frame.top - MARGIN_UM) / side)];
  const last = [
    Math.floor((frame.left + frame.width / frame.scale + MARGIN_UM) / side),
    Math.floor((frame.top + frame.height / frame.scale + MARGIN_UM) / side),
  ];
  const across = last[0] - first[0] + 1;
  const lacking = new Set<number>();
  for (let row = Math.max(first[1], 0); row <= last[1]; row++) {
    for (let column = Math.max(first[0], 0); column <= last[0]; column++) {
      if (column * side > cells.slide.width || row * side > cells.slide.height) continue;
      const square = cells.square(column, row, arrived);
      if (!square) {
        lacking.add((row - first[1]) * across + column - first[0]);
        continue;
      }
      let start = 0;
      for (let k = 0; k < square.rows.length; k++) {
        const end = square.ends[k];
        const shade = cells.shade[square.rows[k]];
        if (shade !== HIDDEN && (marked === null || cells.marked![square.rows[k]] === marked)) {
          let path = paths.get(shade);
          if (!path) paths.set(shade, (path = new Path2D()));
          for (let p = start; p < end; p++) {
            const x = (square.points[2 * p] - frame.left) * frame.scale;
            const y = (square.points[2 * p + 1] - frame.top) * frame.scale;
            if (p === start) path.moveTo(x, y);
            else path.lineTo(x, y);
          }
          path.closePath();
        }
        start = end;
      }
    }
  }
  const near = Math.min(1, Math.max(0, (OUTLINES_BELOW - frame.ratio / frame.scale) / OUTLINES_BELOW));
  context.lineJoin = "round";
  context.strokeStyle = "rgba(255, 255, 255, 0.55)";
  context.lineWidth = (1.6 + 2.2 * near) * frame.ratio;
  for (const path of paths.values()) context.stroke(path);
  context.lineWidth = (1 + 1.1 * near) * frame.ratio;
  for (const [shade, path] of paths) {
    context.strokeStyle = cells.palette[shade];
    context.stroke(path);
  }
  if (!lacking.size) return;
  const waiting = rows.filter((i) => {
    const column = Math.floor(cells.centres[2 * i] / side) - first[0];
    return lacking.has((Math.floor(cells.centres[2 * i + 1] / side) - first[1]) * across + column);
  });
  dots(context, layer, frame, waiting);
}

function dots(context: CanvasRenderingContext2D, cells: Layer, frame: Frame, rows: Uint32Array): void {
  const radius = Math.max(1.3 * frame.ratio, Math.min(frame.dot * frame.scale, 4 * frame.ratio));
  const paths = new Map<number, Path2D>();
  for (const i of rows) {
    const shade = cells.shade[i];
    let path = paths.get(shade);
    if (!path) paths.set(shade, (path = new Path2D()));
    const x = (cells.points[2 * i] - frame.left) * frame.scale;
    const y = (cells.points[2 * i + 1] - frame.top) * frame.scale;
    if (radius < 2 * frame.ratio) path.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    else {
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, 2 * Math.PI);
    }
  }
  for (const [shade, path] of paths) {
    context.fillStyle = cells.palette[shade];
    context.fill(path);
  }
  if (radius < 2 * frame.ratio) return;
  context.strokeStyle = "rgba(255, 255, 255, 0.8)";
  context.lineWidth = 0.8 * frame.ratio;
  for (const path of paths.values()) context.stroke(path);
}

/** Each bin has the colour of most of its cells (of a number: their mean), and is the more opaque the more there are. */
function density(context: CanvasRenderingContext2D, cells: Layer, frame: Frame, rows: Uint32Array): void {
  const step = BIN * frame.ratio;
  const width = Math.ceil(frame.width / step);
  const height = Math.ceil(frame.height / step);
  const colours = cells.palette.map(rgb);
  const kinds = cells.ordered ? 1 : colours.length;
  const counts = new Uint32Array(width * height);
  const parts = new Uint32Array(width * height * kinds); // cells of each colour, or the sum of their shades
  for (const i of rows) {
    const column = Math.floor(((cells.points[2 * i] - frame.left) * frame.scale) / step);
    const row = Math.floor(((cells.points[2 * i + 1] - frame.top) * frame.scale) / step);
    if (column < 0 || row < 0 || column >= width || row >= height) continue;
    const bin = row * width + column;
    counts[bin]++;
    if (cells.ordered) parts[bin] += cells.shade[i];
    else parts[bin * kinds + cells.shade[i]]++;
  }
  const filled = counts.filter((count) => count > 0).sort();
  const dense = filled[Math.floor(0.9 * (filled.length - 1))] || 1;
  const image = new ImageData(width, height);
  for (let bin = 0; bin < counts.length; bin++) {
    if (!counts[bin]) continue;
    let shade = cells.ordered ? Math.round(parts[bin] / counts[bin]) : 0;
    if (!cells.ordered) {
      for (let k = 1; k < kinds; k++) if (parts[bin * kinds + k] > parts[bin * kinds + shade]) shade = k;
    }
    image.data.set(colours[shade], 4 * bin);
    image.data[4 * bin + 3] = 70 + 150 * Math.min(1, counts[bin] / dense);
  }
  const small = document.createElement("canvas");
  small.width = width;
  small.height = height;
  small.getContext("2d")!.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, width * step, height * step);
}
