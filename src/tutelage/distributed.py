"""The few collectives a method or the engine needs; each is the identity when there is one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as dist_nn

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, collectives are the identity: for what one process does while the others wait."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def world_size() -> int:
    """How many processes train together."""
    if _ALONE.get():
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes. Not differentiable: for targets and statistics only."""
    return _all_reduce(x, dist.ReduceOp.SUM) if world_size() > 1 else x


def all_sum_with_gradient(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, for what is learned through: each gets the gradient of every process's sum."""
    return dist_nn.all_reduce(x) if world_size() > 1 else x


def all_max(x: Tensor) -> Tensor:
    """The largest `x` over all processes, element by element. Not differentiable."""
    return _all_reduce(x, dist.ReduceOp.MAX) if world_size() > 1 else x


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()


def _all_reduce(x: Tensor, op: "dist.ReduceOp.RedOpType") -> Tensor:
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, op=op)
    return x
