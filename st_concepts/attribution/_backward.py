"""Backward rules that replace the gradient inside an encoder while it runs.

A `torch.overrides.TorchFunctionMode` sees every call of a torch function, so modules, functional calls and modules used
twice are treated alike, and nothing has to be hooked or restored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELU = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}
# element-wise with f(0) = 0: relevance can be passed on as gradient * f(z) / z
_ODD_AT_ZERO = {F.leaky_relu, F.elu, F.gelu, F.silu, F.tanh, torch.tanh, torch.Tensor.tanh}
_ELSEWHERE = {F.softplus, F.sigmoid, torch.sigmoid, torch.Tensor.sigmoid}
_LINEAR = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d, F.batch_norm}
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
        functions: set[Callable],
        *,
        after: tuple[set[Callable], Rule] | None = None,
        refuse: set[Callable] = frozenset(),  # type: ignore[assignment]
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


def guided_backprop() -> BackwardRule:
    """Positive gradients through active units (Springenberg et al. 2014)."""
    return BackwardRule(lambda z, y, g: g.clamp(min=0) * (z > 0), RELU, name="guided_backprop")


def deconvolution() -> BackwardRule:
    """Positive gradients through all units (Zeiler & Fergus 2014)."""
    return BackwardRule(lambda z, y, g: g.clamp(min=0), RELU, name="deconvolution")


def percentile(values: torch.Tensor, q: float) -> torch.Tensor:
    """Linearly interpolated ``q``-th percentile of each row of ``values`` ``(n, m)``, as a column ``(n, 1)``."""
    # torch.quantile refuses more than 16 million elements, which a batch of feature maps can hold
    ordered = values.sort(dim=1).values
    position = q / 100 * (values.shape[1] - 1)
    low = int(position)
    high = min(low + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, [low]], ordered[:, [high]], position - low)


def rectgrad(q: float, tau: float | None, modified: bool) -> BackwardRule:
    """Gradients only where activation x gradient exceeds a threshold (Kim et al. 2019, section 3)."""

    def rule(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        relevance = (y * g).flatten(1)
        if modified:
            relevance = relevance.abs()
        keep = relevance > (percentile(relevance, q) if tau is None else tau)
        return torch.where(keep.view_as(g), g, torch.zeros((), dtype=g.dtype, device=g.device))

    return BackwardRule(rule, RELU, name="rectgrad")


def stabilised_ratio(numerator: torch.Tensor, z: torch.Tensor, epsilon: float) -> torch.Tensor:
    """``numerator / (z + epsilon sign(z))`` with ``sign(0) = 1``."""
    return numerator / (z + torch.where(z >= 0, epsilon, -epsilon).to(z.dtype))


def epsilon_lrp(epsilon: float) -> BackwardRule:
    """Layer-wise relevance propagation, epsilon rule, as a modified gradient (Ancona et al. 2018, proposition 1).

    Sums of branches need no rule: relevance = activation x gradient divides among them in proportion.
    """

    def after_linear(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g * stabilised_ratio(y, y, epsilon)

    def through(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g * torch.where(z == 0, torch.zeros_like(z), y / torch.where(z == 0, torch.ones_like(z), z))

    return BackwardRule(
        through, RELU | _ODD_AT_ZERO, after=(_LINEAR, after_linear), refuse=_ELSEWHERE, name="epsilon_lrp"
    )


class DeepLift(BackwardRule):
    """Rescale rule (Shrikumar et al. 2017) on a batch whose second half holds the baselines of the first.

    Only gradients w.r.t. the first half mean anything. Below ``threshold`` in the input difference the ordinary
    gradient is used, as in captum.
    """

    def __init__(self, threshold: float = 1e-10) -> None:
        super().__init__(lambda z, y, g: g, RELU | _ODD_AT_ZERO | _ELSEWHERE, name="deeplift")
        self.threshold = threshold

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in self.functions:
            return super().__torch_function__(func, types, args, kwargs)
        self.calls += 1
        named = dict(kwargs or {})
        z = args[0] if args else named.pop("input")
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_(True)
            y = func(leaf * 1, *args[1:], **named)
            (slope,) = torch.autograd.grad(y.sum(), leaf)

        def rescale(z: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            (z1, z0), (y1, y0) = z.chunk(2), y.chunk(2)
            difference = z1 - z0
            small = difference.abs() < self.threshold
            ratio = (y1 - y0) / torch.where(small, torch.ones_like(difference), difference)
            multiplier = torch.where(small, slope.chunk(2)[0], ratio)
            return torch.cat([g.chunk(2)[0] * multiplier, torch.zeros_like(difference)])

        return override(func, args, kwargs or {}, z, y.detach(), rescale)
