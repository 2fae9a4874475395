"""Whether captum's hooks see every non-linear function of a module."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Count(TorchFunctionMode):
    """Counts calls of non-linear functions by name."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        if name in self.names:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


def check_hookable(module: nn.Module, x: torch.Tensor) -> None:
    """Whether every non-linear function is a module that runs once, as captum's DeepLift assumes without saying so."""
    functions = {
        nn.ReLU: "relu",
        nn.ELU: "elu",
        nn.LeakyReLU: "leaky_relu",
        nn.Sigmoid: "sigmoid",
        nn.Tanh: "tanh",
        nn.Softplus: "softplus",
    }
    runs: Counter[nn.Module] = Counter()
    handles = [
        m.register_forward_hook(lambda m, args, out: runs.update([m])) for m in module.modules() if type(m) in functions
    ]
    try:
        with torch.no_grad(), _Count(set(functions.values())) as count:
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    through_modules: Counter[str] = Counter()
    for m, n in runs.items():
        through_modules[functions[type(m)]] += n
        if n > 1:
            raise ValueError(
                f"deeplift needs every {type(m).__name__} module to run once, but one runs {n} times. "
                "Give each place its own module, or use integrated_gradients."
            )
    for name, n in count.calls.items():
        if n > through_modules[name]:
            raise ValueError(
                f"deeplift cannot follow torch.nn.functional.{name}: use the module (for example nn.ReLU()) instead, "
                "or integrated_gradients."
            )
