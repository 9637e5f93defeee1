"""How much oneDNN may keep. It prepares a computation for each shape of its operands, and keeps it with its buffers.

A slide has windows of many sizes and numbers of queries; with the defaults, 1024 entries, what is kept was up to half a
gigabyte after three rows of tiles. A network is about a hundred computations; fewer entries have not made it slower.
Training, which prepares three times as many, is 5 % slower with them: this is for prediction only.
"""

from __future__ import annotations

import os

# Of oneDNN, which reads it at its first use, and of PyTorch's layer above it, read when PyTorch is loaded.
VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
ENTRIES = 128


def limit_caches() -> None:
    """Bound both caches, unless the environment says otherwise; without effect on what was read already (above)."""
    for variable in VARIABLES:
        os.environ.setdefault(variable, str(ENTRIES))
