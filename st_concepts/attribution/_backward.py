"""Backward rules that replace the gradient inside an encoder while it runs.

A `torch.overrides.TorchFunctionMode` sees every call of a torch function, so modules, functional calls and modules used
twice are treated alike, and nothing has to be hooked or restored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELU: set[Callable[..., Any]] = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}
# element-wise with f(0) = 0: relevance can be passed on as gradient * f(z) / z
ODD_AT_ZERO: set[Callable[..., Any]] = {F.leaky_relu, F.elu, F.gelu, F.silu, F.tanh, torch.tanh, torch.Tensor.tanh}
ELSEWHERE: set[Callable[..., Any]] = {F.softplus, F.sigmoid, torch.sigmoid, torch.Tensor.sigmoid}
LINEAR: set[Callable[..., Any]] = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    F.batch_norm,
}
# rules read the gradient on its way back: (z, y, gradient w.r.t. y) -> gradient w.r.t. z
Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Override(torch.autograd.Function):
    """Identity forward on ``y``; backward sends ``rule(z, y, gradient)`` to ``z``."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, y: torch.Tensor, rule: Rule) -> torch.Tensor:
        ctx.save_for_backward(z, y)
        ctx.rule = rule
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.rule(*ctx.saved_tensors, grad), None, None


class _OverrideInPlace(Override):
    """The same for a function that overwrites ``z``, whose caller may go on with ``z`` rather than the result."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, y: torch.Tensor, rule: Rule) -> torch.Tensor:
        ctx.save_for_backward(z.clone(), y)
        ctx.rule = rule
        ctx.mark_dirty(z)
        return z.copy_(y)


def asks_in_place(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether this call overwrites its input."""
    named = func.__name__.endswith("_") or kwargs.get("inplace", False)
    return bool(named) or (func in (F.relu, F.leaky_relu, F.elu, F.silu) and args[-1] is True)


def override(func: Callable, args: tuple, kwargs: dict, z: torch.Tensor, y: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Result ``y`` of ``func`` on ``z`` whose gradient obeys ``rule``; in place where the call asked for that."""
    return (_OverrideInPlace if asks_in_place(func, args, kwargs) else Override).apply(z, y, rule)


class BackwardRule(TorchFunctionMode):
    """Run an encoder under a rule for its non-linear functions.

    Parameters
    ----------
    rule
        Gradient w.r.t. the input of a non-linear function from its input, output and incoming gradient.
    functions
        Functions that the rule replaces.
    after
        Functions whose output gradient passes through ``rule`` as ``rule(y, y, gradient)``.
    refuse
        Functions for which the method is not defined.
    name
        Method named in errors.
    """

    def __init__(
        self,
        rule: Rule,
        functions: Collection[Callable],
        *,
        after: tuple[Collection[Callable], Rule] | None = None,
        refuse: Collection[Callable] = frozenset(),
        name: str = "",
    ) -> None:
        super().__init__()
        self.rule, self.functions, self.after, self.refuse, self.name = rule, functions, after, refuse, name
        self.calls = 0

    def begin(self, start: torch.Tensor) -> None:
        """Called with the tensor that enters the net."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self.refuse:
            raise ValueError(
                f"{self.name} is not defined for {func.__name__}, which is not zero at zero. "
                "Use integrated_gradients or deeplift on this encoder."
            )
        if func in self.functions:
            self.calls += 1
            z = args[0] if args else kwargs["input"]
            with torch.no_grad():
                # the input is copied where the function would overwrite it
                y = func(z.detach().clone(), *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
            return override(func, args, kwargs, z, y, self.rule)
        if self.after is not None and func in self.after[0]:
            y = func(*args, **kwargs)
            return Override.apply(y, y.detach(), self.after[1])
        return func(*args, **kwargs)


def pull_back(
    net: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
    a: torch.Tensor,
    codes: torch.Tensor | None,
    directions: torch.Tensor,
    rule: BackwardRule | None = None,
) -> torch.Tensor:
    """Gradient of ``directions . net(a)`` w.r.t. ``a``, under a backward rule if one is given.

    ``a`` is ``(n, n_hidden)``, ``directions`` ``(m, n, n_latent)`` or ``(m, 1, n_latent)``, the result ``(m, n,
    n_hidden)``.
    """
    a = a.detach().requires_grad_(True)
    context: AbstractContextManager = nullcontext() if rule is None else rule
    with torch.enable_grad(), context:
        # a copy, since the net may begin with a function that overwrites its input
        start = a.clone()
        if rule is not None:
            rule.begin(start)
        latent = net(start, codes)
    m = directions.shape[0]
    out = torch.empty((m, *a.shape), dtype=a.dtype, device=a.device)
    for j in range(m):
        grad = None
        if latent.requires_grad:
            (grad,) = torch.autograd.grad(
                latent, a, directions[j].expand_as(latent), retain_graph=j + 1 < m, allow_unused=True
            )
        if grad is None:
            raise ValueError(
                "The encoder's output does not depend on its input in a way that can be differentiated. "
                "Does it detach tensors, round them or run under torch.no_grad()?"
            )
        out[j] = grad
    return out
