"""Path integrals in one pass, for nets with a single layer of rectified units.

Such a net's gradient is linear in the gates (0 or 1) of its units, and along a straight line a gate switches once at
most, at a place known from its two ends. So the weighted sum of the gradients at the points of a quadrature rule is the
gradient with every gate replaced by the weighted share of points where it is open: the same number, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from st_concepts.attribution._backward import RELU, BackwardRule, Override, asks_in_place

T = torch.Tensor
# linear in all their tensors together
_JOINT = {torch.cat, torch.add, torch.sub, T.add, T.__add__, T.__radd__, T.sub, T.__sub__, T.__rsub__}
# linear in the first tensor where nothing else depends on the input
_FIRST = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, T.matmul, T.__matmul__, torch.mul, T.mul, T.__mul__}
_FIRST |= {T.__getitem__, T.view, T.reshape, T.flatten, torch.flatten, T.clone, T.contiguous, T.to}
_FIRST |= {torch.chunk, T.chunk, torch.split, T.split}
# what may be asked of a tensor without depending on its values
_ASK = {T.size, T.dim, T.numel, T.is_contiguous, T.__len__}
_ASK |= {getattr(T, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad")}


class NotShallow(Exception):
    """The net has more than one layer of rectified units, or a function that is not known to be linear."""


class MeanGate(BackwardRule):
    """Replaces each gate by its mean over the line from the second half of the batch to the first.

    Parameters
    ----------
    points, weights
        Quadrature rule on [0, 1], points ascending.
    """

    def __init__(self, points: np.ndarray, weights: np.ndarray) -> None:
        super().__init__(lambda z, y, g: g, RELU, name="integrated_gradients")
        self.points = points
        # share of the first i points in the total weight
        self.cumulative = np.concatenate([[0.0], np.cumsum(weights) / np.sum(weights)])
        # layers of rectified units before each tensor that depends on the input, by id; the tensors are kept with it so
        # that no other tensor gets their id
        self.depth: dict[int, tuple[int, torch.Tensor]] = {}

    def begin(self, start: torch.Tensor) -> None:
        """Take note of the tensor that enters the net."""
        self.depth[id(start)] = (0, start)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        # tensors, their graph, this rule and back: whole batches would wait for the garbage collector
        self.depth.clear()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        depths = [self._depth_of(t) for t in _tensors([*args, *kwargs.values()])]
        known = [d for d in depths if d is not None]
        if not known or func in _ASK:
            return func(*args, **kwargs)
        if func in self.functions:
            if max(known) > 0 or asks_in_place(func, args, kwargs):
                raise NotShallow
            self.calls += 1
            out = self._gate(args[0] if args else kwargs["input"])
            self.depth[id(out)] = (1, out)
            return out
        first = depths[0] is not None and len(known) == 1
        if not (func in _JOINT or (first and (func in _FIRST or _is_still(func, args, kwargs)))):
            raise NotShallow
        out = func(*args, **kwargs)
        for tensor in _tensors([out]):
            # mixing spots would let the two halves of the batch see each other
            if not tensor.is_floating_point() or tensor.shape[:1] != next(iter(self.depth.values()))[1].shape[:1]:
                raise NotShallow
            self.depth[id(tensor)] = (max(known), tensor)
        return out

    def _depth_of(self, tensor: torch.Tensor) -> int | None:
        if id(tensor) in self.depth:
            return self.depth[id(tensor)][0]
        if tensor.grad_fn is not None:
            # made by something that was not seen, a custom autograd function for example
            raise NotShallow
        return None

    def _gate(self, z: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = F.relu(z.detach())

        share: list[torch.Tensor] = []

        def rule(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            end, start = z.chunk(2)
            # the same for every direction that is sent back
            if not share:
                share.append(self.open(start, end))
            return torch.cat([g.chunk(2)[0] * share[0], torch.zeros_like(end)])

        return Override.apply(z, y, rule)

    def open(self, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Weight of the points, as a share of all, at which ``start + point * (end - start) > 0``."""
        points = torch.as_tensor(self.points, dtype=start.dtype, device=start.device)
        cumulative = torch.as_tensor(self.cumulative, dtype=start.dtype, device=start.device)
        share = torch.where(start > 0, cumulative[-1], torch.zeros_like(cumulative[-1]))
        # most gates are open or closed all the way; opening ones are open after the switch, closing ones before it
        moving = torch.nonzero(((start > 0) != (end > 0)).reshape(-1)).reshape(-1)
        first, last = start.reshape(-1)[moving], end.reshape(-1)[moving]
        opens, switch = last > 0, first / (first - last)
        switch = torch.where(opens, switch, torch.nextafter(switch, switch.new_tensor(-torch.inf)))
        before = cumulative[torch.searchsorted(points, switch, right=True)]
        share.view(-1)[moving] = torch.where(opens, cumulative[-1] - before, before)
        return share


def _is_still(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether this is a layer that does something else in training, at rest."""
    place = {F.batch_norm: 5, F.dropout: 2}.get(func)
    return place is not None and not kwargs.get("training", args[place] if len(args) > place else func is F.dropout)


def _tensors(values: list[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(list(value))
    return found
