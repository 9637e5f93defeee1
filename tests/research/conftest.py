"""Studies train the same tiny networks on the same tiny data set as the tests of training."""

from training.conftest import no_pictures, tiny_model, tiny_recipe

__all__ = ["no_pictures", "tiny_model", "tiny_recipe"]
