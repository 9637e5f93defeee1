"""The deformable encoder: each token looks around its own place on every level (Zhu et al., ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from celldetr.config import ModelConfig
from celldetr.model.dropout import Dropout
from celldetr.model.layers import DeformableAttention, FeedForward, start_at_zero
from celldetr.model.memory import Memory


class EncoderLayer(nn.Module):
    """Post-norm: deformable self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(
            config.d_model,
            config.heads,
            len(config.encoder_strides),
            config.points,
            inside=config.border == "replicate",
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.ffn = FeedForward(config.d_model, config.ffn, config.dropout)
        if config.residual_start == "zero":
            start_at_zero(self.attention.output_proj, self.ffn.contract)

    def forward(self, memory: Memory, position: Tensor, centres: Tensor) -> Memory:
        """One round of mixing.

        Args:
            memory: tokens so far.
            position: (B | 1, S, d) positional encoding of the tokens, level embedding included.
            centres: (B, S, 2) reference points.
        """
        tokens = memory.tokens
        attended = self.attention(tokens + position, centres, memory)
        return memory.with_tokens(self.ffn(self.norm(tokens + self.dropout(attended))))


class Encoder(nn.Module):
    """A stack of encoder layers over the levels the config gives it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.level_embedding = nn.Parameter(torch.randn(len(config.encoder_strides), config.d_model) * 0.02)
        self.dropout = Dropout(config.dropout)

    def forward(self, memory: Memory, position: Tensor | None) -> Memory:
        """Mix the tokens.

        Args:
            memory: projected backbone features.
            position: (B, S, d) encoding of each token's place, without its level; None: offsets depend on content only.
        """
        level = torch.cat(
            [row.expand(h * w, -1) for row, (h, w) in zip(self.level_embedding, memory.shapes, strict=True)]
        )[None]
        position = (level if position is None else position + level).to(memory.tokens.dtype)
        centres = memory.centres()
        memory = memory.with_tokens(self.dropout(memory.tokens))
        for layer in self.layers:
            memory = layer(memory, position, centres)
        return memory
