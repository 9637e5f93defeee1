"""Fixtures for training."""

from helpers.tiny_runs import no_pictures, soft_set, start, tiny_batch, tiny_model, tiny_recipe

__all__ = ["no_pictures", "soft_set", "start", "tiny_batch", "tiny_model", "tiny_recipe"]
