"""Independent proof of the detector: Hugging Face's Deformable DETR with the same weights gives the same numbers."""

import re

import pytest
import torch

from celldetr.config import ModelConfig
from celldetr.model.celldetr import CellDETR

transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(
    types=("a", "b"),
    backbone="resnet18",
    strides=(8, 16, 32),
    d_model=64,
    heads=4,
    points=3,
    ffn=96,
    coordinates="image",
    border="zeros",
    encoder_position="absolute",
    level_norm="group",
    encoder_layers=2,
    encoder_strides=(8, 16, 32),
    detection_layers=3,
    queries="learned",
    num_queries=17,
    representation_layers=1,
    representation_strides=(8, 16, 32),
)

# Their name -> ours.
RENAMES = [
    (r"^model\.backbone\.model\.", "backbone.body."),
    (r"^model\.input_proj\.", "projections."),
    (r"^model\.level_embed$", "encoder.level_embedding"),
    (r"^model\.query_position_embeddings\.", "detector.queries.table."),
    (r"^model\.reference_points\.", "detector.queries.reference."),
    (r"^model\.encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"^model\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.norm."),
    (r"^model\.decoder\.layers\.(\d+)\.self_attn\.o_proj\.", r"detector.layers.\1.self_attention.output_proj."),
    (r"^model\.decoder\.layers\.(\d+)\.self_attn\.", r"detector.layers.\1.self_attention."),
    (r"^model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"detector.layers.\1.self_norm."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn\.", r"detector.layers.\1.cross_attention."),
    (r"^model\.decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.", r"detector.layers.\1.cross_norm."),
    (r"\.mlp\.fc1\.", ".ffn.expand."),
    (r"\.mlp\.fc2\.", ".ffn.contract."),
    (r"\.final_layer_norm\.", ".ffn.norm."),
    (r"^model\.encoder\.", "encoder."),
    (r"^model\.decoder\.layers", "detector.layers"),
    (r"^bbox_embed\.(\d+)\.layers\.", r"detector.heads.\1.box.layers."),
    (r"^class_embed\.(\d+)\.", r"detector.heads.\1.objectness."),
]


def theirs() -> torch.nn.Module:
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18", out_indices=[2, 3, 4], use_pretrained_backbone=False, features_only=True
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        encoder_n_points=3,
        decoder_n_points=3,
        num_feature_levels=3,
        num_queries=17,
        num_labels=1,
        with_box_refine=True,
        dropout=0.0,
        attention_dropout=0.0,
    )
    torch.manual_seed(0)
    network = transformers.DeformableDetrForObjectDetection(config).eval()
    with torch.no_grad():  # every weight random, so that no zero hides a difference
        for name, parameter in network.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return network


def carried_over(network: torch.nn.Module) -> CellDETR:
    ours = CellDETR(CONFIG).eval()
    renamed = {}
    for name, value in network.state_dict().items():
        if name.startswith(("model.decoder.bbox_embed", "model.decoder.class_embed")):
            continue  # copies of the heads
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    missing, unexpected = ours.load_state_dict(renamed, strict=False)
    assert not unexpected
    ours_alone = ("representer.", "type_head.")
    assert all(name.startswith(ours_alone) or name.endswith("num_batches_tracked") for name in missing)
    return ours


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_memory_and_boxes_equal_those_of_transformers(padded: bool) -> None:
    reference = theirs()
    ours = carried_over(reference)
    images = torch.randn(2, 3, 96, 128)
    sizes = torch.tensor([[128, 96], [77, 50]]) if padded else torch.tensor([[128, 96], [128, 96]])
    mask = torch.zeros(2, 96, 128, dtype=torch.long)
    for row, (width, height) in zip(mask, sizes.tolist(), strict=True):
        row[:height, :width] = 1
    images = images * mask[:, None]
    with torch.no_grad():
        expected = reference(pixel_values=images, pixel_mask=mask)
        memories = ours.memorise(images, sizes)
        found = ours.detect(memories).last
    padding = memories.detection.padding
    real = (
        torch.ones(memories.detection.tokens.shape[:2], dtype=torch.bool) if padding is None else ~padding
    )  # padded tokens hold anything: no attention reads them
    assert padded == (not bool(real.all()))
    memory, expected_memory = memories.detection.tokens[real], expected.encoder_last_hidden_state[real]
    torch.testing.assert_close(memory, expected_memory, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, expected.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits, expected.logits[..., 0], atol=1e-4, rtol=1e-4)
