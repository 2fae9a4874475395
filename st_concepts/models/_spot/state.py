"""Everything that a fit needs to go on where it was, and the files that hold it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from st_concepts._files import make_folder, real, sweep
from st_concepts.models import _checkpoint
from st_concepts.models._headers import check_fit
from st_concepts.models._schema import shown, wrong
from st_concepts.models._spot.module import SpotModule

_KIND = _checkpoint.STATE_OF_FIT
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class FitState:
    """State of a fit between two steps.

    Attributes
    ----------
    module, optimizer
        Weights and their moments.
    rng, generator
        Sources of the order of the spots and of the noise.
    history, best, best_epoch, best_state
        Records of the epochs, and the best one's likelihood, number and weights.
    step, loss
        Steps made in the epoch under way, and the sum of their losses.
    """

    module: SpotModule
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    generator: torch.Generator
    best_state: dict[str, torch.Tensor]
    loss: torch.Tensor
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = math.nan
    best_epoch: int = 0
    step: int = 0
    epoch_rng: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, module: SpotModule, optimizer: torch.optim.Optimizer, seed: int, device: torch.device) -> Self:
        """The state before the first step."""
        return cls(
            module,
            optimizer,
            np.random.default_rng(seed),
            torch.Generator(device=device).manual_seed(seed),
            {k: v.detach().clone() for k, v in module.state_dict().items()},
            torch.zeros((), dtype=torch.float64, device=device),
        )

    @property
    def epoch(self) -> int:
        """Complete epochs."""
        return max(len(self.history) - 1, 0)

    def stopped(self, patience: int) -> bool:
        """Whether ``patience`` epochs went by without improvement."""
        return not math.isnan(self.best) and self.epoch - self.best_epoch >= patience

    def begin_epoch(self) -> None:
        """Go to the first step of the next epoch; in one that was interrupted, to the step after the last one made."""
        if self.step:
            self.rng.bit_generator.state = self.epoch_rng
        else:
            self.epoch_rng = self.rng.bit_generator.state
            self.loss.zero_()

    def record(self, loss: float, nll: float) -> None:
        """An epoch is complete."""
        self.history.append({"epoch": len(self.history), "train_loss": loss, "validation_nll": nll})
        self.step = 0

    def keep(self, nll: float) -> None:
        """The weights of now are the best."""
        self.best, self.best_epoch = nll, self.epoch
        for name, value in self.module.state_dict().items():
            self.best_state[name].copy_(value)

    # ------------------------------------------------------------------------------------------- in files

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        out = self._without_moments()
        for i, p in enumerate(self._parameters()):
            for k in _MOMENTS if p in self.optimizer.state else ():
                out[f"optimizer.{i}.{k}"] = torch.as_tensor(self.optimizer.state[p][k])
        return out

    def layout(self) -> dict[str, torch.Tensor]:
        """All tensors that a state of this fit can have, for their shapes and types; moments are views of weights."""
        out = self._without_moments()
        for i, p in enumerate(self._parameters()):
            out |= {f"optimizer.{i}.{k}": p.detach() for k in _MOMENTS[1:]}
            out[f"optimizer.{i}.{_MOMENTS[0]}"] = torch.zeros(())
        return out

    def _without_moments(self) -> dict[str, torch.Tensor]:
        out = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        out |= {f"best.{k}": v for k, v in self.best_state.items()}
        return out | {"generator": self.generator.get_state(), "loss": self.loss}

    def header(self) -> dict[str, Any]:
        """All numbers; NaN as None."""
        history = [[None if math.isnan(v) else v for v in r.values()] for r in self.history]
        best = None if math.isnan(self.best) else self.best
        rng = self.epoch_rng if self.step else self.rng.bit_generator.state
        return {"history": history, "best": best, "best_epoch": self.best_epoch, "step": self.step, "rng": rng}

    def restore(self, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
        """Become the state that `tensors` and `header` were taken from."""
        self.module.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("module.")})
        for name, value in self.best_state.items():
            value.copy_(tensors[f"best.{name}"])
        for i, p in enumerate(self._parameters()):
            if f"optimizer.{i}.step" in tensors:
                self.optimizer.state[p] = {k: tensors[f"optimizer.{i}.{k}"].to(p.device) for k in _MOMENTS}
        self.generator.set_state(tensors["generator"])
        self.loss.copy_(tensors["loss"])
        keys = ("epoch", "train_loss", "validation_nll")
        self.history = [
            dict(zip(keys, [math.nan if v is None else v for v in r], strict=True)) for r in header["history"]
        ]
        self.best = math.nan if header["best"] is None else header["best"]
        self.best_epoch, self.step = header["best_epoch"], header["step"]
        self.epoch_rng = header["rng"]
        self.rng.bit_generator.state = header["rng"]

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Checkpoints:
    """Two generations of one state in a folder; a kill or a full disk at any moment leaves at least one whole.

    Parameters
    ----------
    folder
        Made where it does not exist.
    identity
        What must be the same for a fit to be continued: options, sizes, a digest of the data.
    minutes
        Within an epoch, write when this many minutes have passed; 0 for never. Every epoch ends with a write.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: dict[str, Any], *, minutes: float) -> None:
        self.folder, self.identity, self.minutes = real(folder), identity, minutes
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"checkpoint={str(self.folder)!r} is a file; name a folder of its own.")
        make_folder(self.folder)
        self.current, self.previous, self._next = (
            self.folder / f"{name}.stc" for name in ("checkpoint", "previous", "next")
        )

    def write(self, state: FitState) -> None:
        """Write the state; the one before becomes the previous one."""
        try:
            # "next" is whole as soon as it has its name; what follows only renames
            _checkpoint.write(self._next, _KIND, state.tensors(), {"identity": self.identity} | state.header())
            self._settle()
        except OSError as error:
            kept = f"The one before, {self.current}, is intact" if self.current.exists() else "There is none before it"
            raise OSError(
                error.errno,
                f"Cannot write the checkpoint of epoch {state.epoch} to {str(self.folder)!r}: "
                f"{error.strerror or error}. {kept}; make room and call fit() again with the same checkpoint to go on.",
            ) from error

    def _settle(self) -> None:
        if self.current.exists():
            os.replace(self.current, self.previous)
        os.replace(self._next, self.current)

    def exist(self) -> bool:
        """Whether there is a state to go on from."""
        return self._path() is not None

    def _path(self) -> Path | None:
        return next((p for p in (self._next, self.current, self.previous) if p.exists()), None)

    def restore(self, state: FitState) -> bool:
        """Bring ``state`` to the last one written; `False` where there is none."""
        sweep(self.folder)
        for left in self.folder.glob(".next.stc.*"):  # of a write by version 0.1 that was killed
            left.unlink(missing_ok=True)
        path = self._path()
        if path is None:
            return False
        others = [str(p) for p in (self.current, self.previous) if p != path and p.exists()]
        hint = f"Delete it to go on from {others[0]!r}." if others else "Delete it to begin anew."
        try:
            tensors, header = _checkpoint.read(path, _KIND)
            self._check_identity(path, header.get("identity"))
            check_fit(str(path), tensors, header, state.layout())
            state.restore(tensors, header)
        except _OtherFit as error:
            raise ValueError(str(error)) from None
        # what no schema can tell: a state that the random generators refuse
        except (ValueError, RuntimeError, TypeError, KeyError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The checkpoint {str(path)!r} is damaged ({reason}). {hint}") from error
        return True

    def _check_identity(self, path: Path, found: Any) -> None:
        if not isinstance(found, dict):
            raise wrong("identity", "a dictionary", found)
        differ = [f"{k} was {shown(found.get(k))}, is {v!r}" for k, v in self.identity.items() if found.get(k) != v]
        if differ:
            raise _OtherFit(
                f"{str(path)!r} belongs to another fit ({'; '.join(differ)}). Use the same data and options, or "
                "another folder."
            )


class _OtherFit(Exception):
    """A checkpoint that is whole, and not of this fit."""
