"""What `GeneVAE` and `ImageVAE` share: a fitted `ConvVAE`, its latent space, its file."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from st_concepts.models import _checkpoint
from st_concepts.models._fitted import Fitted
from st_concepts.models._headers import check_image
from st_concepts.models._image.conv import ConvConfig, ConvVAE


class ImageModel(Fitted[ConvVAE]):
    """A convolutional VAE; see its subclasses."""

    _kind: str
    _conv: ConvConfig
    _measured = ("epoch", "train_loss", "validation_loss", "kl")

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return self._conv.n_latent

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @torch.no_grad()
    def decode(self, latent: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Pictures of latent vectors ``(n, n_latent)``: float32 between 0 and 1.

        ``(n, height, width)`` for one channel, ``(n, channels, height, width)`` for several.
        """
        parts = self._latent(latent, self.n_latent).split(batch_size)
        pictures = torch.cat([torch.sigmoid(self.module.decoder(part)) for part in parts]).cpu().numpy()
        return pictures[:, 0] if self._conv.shape[0] == 1 else pictures

    @torch.no_grad()
    def _embed(self, images: torch.Tensor) -> np.ndarray:
        return self.module.encoder(images.to(self.device))[0].cpu().numpy()

    def _header(self) -> dict[str, Any]:
        return super()._header() | {"conv": self._conv.to_dict(), "names": list(self._names)}

    @classmethod
    def _read(cls, path: str | os.PathLike[str], device: torch.device) -> tuple[Self, dict[str, Any]]:
        state, header = _checkpoint.read(path, cls._kind)
        check_image(str(path), state, header, genes=cls._kind == "GeneVAE")
        model = cls.__new__(cls)
        model._config, model._names = header["config"], pd.Index(header["names"], dtype=object)
        model._conv = ConvConfig.from_dict(header["conv"])
        model._restore(str(path), ConvVAE(model._conv).to(device), state, header)
        return model, header
