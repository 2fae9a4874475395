"""Processes and devices of a fit: this process alone, or several through Lightning Fabric."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from st_concepts._counts.elsewhere import callers_level
from st_concepts._log import in_notebook

T = TypeVar("T")


class Runtime(Protocol):
    """What the fit loop asks of the processes that share a step."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def rank(self) -> int:
        """Number of this process."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Module and optimizer as they are to be called."""

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients, averaged over the processes."""

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a number over the processes."""


@dataclass(frozen=True)
class SingleProcess:
    """One process, one device, nothing wrapped."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Both as they are."""
        return module, optimizer

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of ``loss``."""
        loss.backward()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The value."""
        return value


class MultiProcess:
    """The processes of a launched ``lightning_fabric.Fabric``."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.device, self.rank, self.size = fabric.device, fabric.global_rank, fabric.world_size

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Both wrapped: gradients are averaged, and the precision of the fabric is used."""
        return self.fabric.setup(module, optimizer)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients, averaged over the processes."""
        self.fabric.backward(loss)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a number over the processes."""
        return self.fabric.all_reduce(value, reduce_op="mean")


@dataclass(frozen=True)
class Plan:
    """What ``SpotVAE.fit`` was asked for; see there."""

    device: torch.device
    devices: int | str | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    @property
    def alone(self) -> bool:
        """Whether one process without Fabric does."""
        return (self.devices, self.num_nodes, self.strategy, self.precision) == (1, 1, "auto", "32-true")

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(runtime, *args)`` in every process that takes part; what the first one returns."""
        if self.alone:
            self._warn_if_launched()
            return function(SingleProcess(self.device), *args)
        if in_notebook() and (self.num_nodes > 1 or (isinstance(self.devices, int) and self.devices > 1)):
            # Fabric would fork the kernel, whose threads are then dead in the other processes: they hang
            raise ValueError(
                f"devices={self.devices}, num_nodes={self.num_nodes}: several processes are for scripts, not "
                "notebooks. Fit in a script, save the model and load it here."
            )
        fabric = self._fabric()
        return fabric.launch(_Work(function, args))

    def _warn_if_launched(self) -> None:
        world = os.environ.get("WORLD_SIZE", "1")
        if world.isdigit() and int(world) > 1 and "LOCAL_RANK" in os.environ:
            warnings.warn(
                f"This is one of {world} processes, but fit() uses one: each of them fits the whole model alone. Pass "
                "devices (processes on each machine) and num_nodes to share the work.",
                UserWarning,
                stacklevel=callers_level(),
            )

    def _fabric(self) -> Any:
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ImportError(
                "Several devices, nodes or another precision need Lightning Fabric: pip install lightning-fabric."
            ) from error
        devices = self.devices
        words: dict[str, Any] = {"strategy": self.strategy, "precision": self.precision}  # which Fabric checks itself
        if self.device.type == "cuda" and self.device.index is not None and devices == 1:
            devices = [self.device.index]
        try:
            return Fabric(accelerator=self.device.type, devices=devices, num_nodes=self.num_nodes, **words)
        except Exception as error:
            raise ValueError(
                f"Lightning Fabric refuses devices={self.devices!r}, num_nodes={self.num_nodes}, "
                f"strategy={self.strategy!r}, precision={self.precision!r} on {self.device.type}: {error}"
            ) from error


class _Work:
    """What every process runs, in one piece: Fabric would look into the arguments and take dataclasses apart."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function, self.args = function, args

    def __call__(self, fabric: Any) -> Any:
        return self.function(MultiProcess(fabric), *self.args)
