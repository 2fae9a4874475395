"""Several processes that share one computation: who takes what, and how sums come together.

Without an initialised `torch.distributed` process group everything is the identity, and torch is not even imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def _group() -> Any | None:
    """`torch.distributed` where a process group is initialised, else `None`."""
    if "torch" not in sys.modules:  # then nobody can have initialised it
        return None
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None


def rank() -> int:
    """Number of this process, from 0; 0 where there is only one."""
    group = _group()
    return 0 if group is None else group.get_rank()


def size() -> int:
    """Number of processes; 1 unless `torch.distributed` is initialised."""
    group = _group()
    return 1 if group is None else group.get_world_size()


def shard(items: Iterable[T]) -> Iterator[T]:
    """Every `size`-th item beginning at `rank`: the share of this process, all of them where it is alone.

    Examples
    --------
    >>> list(shard(range(3)))
    [0, 1, 2]
    """
    return islice(items, rank(), None, size())


def shard_rows(n_rows: int, step: int = 1) -> slice:
    """Contiguous share of ``n_rows`` rows, cut at multiples of ``step``; shares differ by at most ``step`` rows.

    Files are read in chunks of neighbouring rows, so a run of rows is a better share of them than every other batch.

    Examples
    --------
    >>> shard_rows(10)
    slice(0, 10, None)
    """
    steps = -(-n_rows // step)
    first, last = steps * rank() // size(), steps * (rank() + 1) // size()
    return slice(min(first * step, n_rows), min(last * step, n_rows))


def all_reduce(*arrays: np.ndarray) -> list[np.ndarray]:
    """Sum of each array over the processes, float64, the same to the last bit in every process."""
    group = _group()
    if group is None or group.get_world_size() == 1:
        return list(arrays)
    import torch

    parts = [np.asarray(a, dtype=np.float64) for a in arrays]
    flat = np.concatenate([p.ravel() for p in parts]) if parts else np.zeros(0)
    total = torch.from_numpy(flat).to(_device(group))
    group.all_reduce(total)
    summed = total.cpu().numpy()
    ends = np.cumsum([p.size for p in parts])[:-1]
    return [s.reshape(p.shape) for s, p in zip(np.split(summed, ends), parts, strict=True)]


def _device(group: Any) -> Any:
    """Where tensors have to be for the collectives: NCCL moves only those of a GPU."""
    import torch

    if "nccl" in str(group.get_backend()) and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
