"""What all models share: a module once they are fitted, a fingerprint, a history, and their part of the file."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import nn

from st_concepts.models import _checkpoint
from st_concepts.models._repr import NotebookRepr

M = TypeVar("M", bound=nn.Module)


class NotFittedError(RuntimeError):
    """The model has no weights yet."""


class Fitted(NotebookRepr, Generic[M]):
    """A torch module that appears with `fit` or is read from a file; see `SpotVAE`, `GeneVAE` and `ImageVAE`."""

    _measured: ClassVar[tuple[str, ...]]  # what an epoch of the history holds, its number first
    _names: pd.Index  # of what the weights belong to: genes, or the spots of a raster
    _config: dict[str, Any]
    _adata: AnnData | None = None
    _module: M | None = None
    _history: list[dict[str, float]]
    _fingerprint: str | None = None

    @property
    def module(self) -> M:
        """The torch module, in eval mode."""
        if self._module is None:
            raise NotFittedError("The model is not fitted yet: call model.fit() first.")
        return self._module

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the weights, or the names they belong to, do."""
        if self._fingerprint is None:
            self._fingerprint = _checkpoint.fingerprint(self.module.state_dict(), self._names)
        return self._fingerprint

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, indexed by ``epoch``; row 0 is the start. Losses are per spot, or per image."""
        return pd.DataFrame(self._history, columns=list(self._measured)).set_index("epoch")

    def _become(self, module: M, history: list[dict[str, float]]) -> None:
        """The end of a fit."""
        self._module, self._history, self._fingerprint = module, history, None

    def _latent(self, latent: np.ndarray, n_latent: int) -> torch.Tensor:
        """Latent vectors ``(n, n_latent)`` as float32 where the weights are."""
        latent = np.atleast_2d(np.asarray(latent, dtype=np.float32))
        if latent.shape[1] != n_latent:
            raise ValueError(f"latent has {latent.shape[1]} columns; the model has {n_latent} latent dimensions.")
        return torch.from_numpy(latent).to(next(self.module.parameters()).device)

    def _data(self, adata: AnnData | None) -> AnnData:
        """``adata``, or what the model was made with."""
        adata = self._adata if adata is None else adata
        if adata is None:
            raise ValueError("This model was loaded from a file and holds no data: pass adata.")
        return adata

    # ------------------------------------------------------------------------------------------- on the disk

    def _header(self) -> dict[str, Any]:
        history = [[None if np.isnan(r[k]) else r[k] for k in self._measured] for r in self._history]
        return {"config": self._config, "history": history, "fingerprint": self.fingerprint}

    def _restore(self, path: str, module: M, state: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
        """Weights and history of a header that was checked; `ValueError` where they are not those that were saved."""
        module.load_state_dict(state)
        history = [[np.nan if v is None else v for v in r] for r in header["history"]]
        self._become(module.eval(), [dict(zip(self._measured, r, strict=True)) for r in history])
        if self.fingerprint != header["fingerprint"]:
            raise ValueError(
                f"{path!r} was changed after it was saved (fingerprint {self.fingerprint}, "
                f"expected {header['fingerprint']}). Save the model again."
            )
