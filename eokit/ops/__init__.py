"""Fused operations on strided views, each with a plain-torch reference; the layers of eokit.nn stand on these.

One folder an op: `__init__.py` holds the public function and its contract, `reference.py` the readable truth.
"""

from eokit.ops.attention import attention
from eokit.ops.library import Backend, backends, placement, use_backend
from eokit.ops.losses import dino_cross_entropy, info_nce, mil_nce
from eokit.ops.row_mlp import row_mlp
from eokit.ops.temporal_pool import temporal_pool
from eokit.ops.tokens import gather_tokens, scatter_tokens

__all__ = [
    "Backend",
    "attention",
    "backends",
    "dino_cross_entropy",
    "gather_tokens",
    "info_nce",
    "mil_nce",
    "placement",
    "row_mlp",
    "scatter_tokens",
    "temporal_pool",
    "use_backend",
]
