"""What `GeneVAE` and `ImageVAE` share: a fitted `ConvVAE`, its latent space, its file."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from st_concepts.models import _checkpoint
from st_concepts.models._headers import check_image
from st_concepts.models._image.conv import ConvConfig, ConvVAE
from st_concepts.models._repr import NotebookRepr
from st_concepts.models._spot.encoder import NotFittedError

_HISTORY = ("epoch", "train_loss", "validation_loss", "kl")


class ImageModel(NotebookRepr):
    """A convolutional VAE with a name, a history and a fingerprint; see its subclasses."""

    _kind: str
    _conv: ConvConfig
    _config: dict[str, Any]
    _names: pd.Index
    _module: ConvVAE | None
    _history: list[dict[str, float]]
    _fingerprint: str | None

    @property
    def module(self) -> ConvVAE:
        """The torch module, in eval mode."""
        if self._module is None:
            raise NotFittedError("The model is not fitted yet: call model.fit() first.")
        return self._module

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return self._conv.n_latent

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the weights (or, for `GeneVAE`, the spots) do."""
        if self._fingerprint is None:
            self._fingerprint = _checkpoint.fingerprint(self.module.state_dict(), self._names)
        return self._fingerprint

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, indexed by ``epoch``; row 0 is the start. Losses are per image, summed over pixels."""
        return pd.DataFrame(self._history, columns=list(_HISTORY)).set_index("epoch")

    @torch.no_grad()
    def decode(self, latent: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Pictures of latent vectors ``(n, n_latent)``: float32 between 0 and 1.

        ``(n, height, width)`` for one channel, ``(n, channels, height, width)`` for several.
        """
        latent = np.atleast_2d(np.asarray(latent, dtype=np.float32))
        if latent.shape[1] != self.n_latent:
            raise ValueError(f"latent has {latent.shape[1]} columns; the model has {self.n_latent} latent dimensions.")
        z = torch.from_numpy(latent).to(self.device)
        pictures = torch.cat([torch.sigmoid(self.module.decoder(part)) for part in z.split(batch_size)]).cpu().numpy()
        return pictures[:, 0] if self._conv.shape[0] == 1 else pictures

    @torch.no_grad()
    def _embed(self, images: torch.Tensor) -> np.ndarray:
        return self.module.encoder(images.to(self.device))[0].cpu().numpy()

    def _header(self) -> dict[str, Any]:
        return {
            "config": self._config,
            "conv": self._conv.to_dict(),
            "names": list(self._names),
            "history": [[None if np.isnan(r[k]) else r[k] for k in _HISTORY] for r in self._history],
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def _read(cls, path: str | os.PathLike[str], device: torch.device) -> tuple[Self, dict[str, Any]]:
        state, header = _checkpoint.read(path, cls._kind)
        check_image(str(path), state, header, genes=cls._kind == "GeneVAE")
        model = cls.__new__(cls)
        model._config, model._names = header["config"], pd.Index(header["names"], dtype=object)
        model._conv = ConvConfig.from_dict(header["conv"])
        model._history = [
            dict(zip(_HISTORY, [np.nan if v is None else v for v in r], strict=True)) for r in header["history"]
        ]
        module = ConvVAE(model._conv)
        module.load_state_dict(state)
        model._module, model._fingerprint = module.to(device).eval(), None
        if model.fingerprint != header["fingerprint"]:
            raise ValueError(
                f"{str(path)!r} was changed after it was saved (fingerprint {model.fingerprint}, "
                f"expected {header['fingerprint']}). Save the model again."
            )
        return model, header
