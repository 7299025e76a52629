"""Means over all samples of a global batch, whatever the number of processes it is spread over."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """`total / count` as one process would compute it, for use under DistributedDataParallel.

    total: () sum of this process's terms, with its gradient. count: () how many terms (or their weight), no gradient.
    DDP averages gradients over W processes, so each returns W * total / (count summed over processes): the average is
    the exact global mean, which plain per-process means are not when counts differ. 0 where nothing was counted.
    """
    count = count.detach().to(total.dtype).clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        return total * dist.get_world_size() / count.clamp_min(1e-12)
    return total / count.clamp_min(1e-12)
