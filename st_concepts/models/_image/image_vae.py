"""`ImageVAE`: the same convolutional VAE for any images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import torch

from st_concepts.models import _checkpoint
from st_concepts.models._image.base import ImageModel
from st_concepts.models._image.conv import ConvConfig, ConvEncoder, ConvVAE
from st_concepts.models._image.fit import ImageFitOptions, Load, check_options, fit_images
from st_concepts.models._spot.encoder import as_device


@runtime_checkable
class ImageSource(Protocol):
    """Images that are read when they are needed, such as `st_concepts.datasets.celeba`."""

    def __len__(self) -> int:
        """Number of images."""

    def load(self, index: np.ndarray) -> np.ndarray:
        """Images ``(b, channels, height, width)``, uint8 or float in [0, 1]; those that cannot be read are left out."""


Images: TypeAlias = np.ndarray | torch.Tensor | ImageSource


class ImageVAE(ImageModel):
    r"""Convolutional variational autoencoder of images of any size and number of channels.

    Parameters
    ----------
    shape
        ``(channels, height, width)``, or ``(height, width)`` for one channel.
    n_latent
        Number of latent dimensions.
    channels, kernel, hidden
        Convolution blocks (each halves the image), their kernel (one or one a block), and the dense layers behind them.
        The paper's model of faces is ``ImageVAE((3, 128, 128), n_latent=400, channels=(64, 128, 256, 512, 1024),
        kernel=(5, 5, 5, 5, 2), hidden=(512,))``.
    seed
        Seed of everything random.

    Raises
    ------
    ValueError
        The shape or the architecture is out of range.

    Examples
    --------
    >>> from st_concepts.models import ImageVAE
    >>> images = np.random.default_rng(0).random((40, 12, 10)).astype(np.float32)
    >>> model = ImageVAE((12, 10), n_latent=3, hidden=(16,)).fit(images, max_epochs=1, progress=False)
    >>> model.embed(images).shape, model.decode(np.zeros((2, 3))).shape
    ((40, 3), (2, 12, 10))
    """

    _kind = "ImageVAE"

    def __init__(
        self,
        shape: Sequence[int],
        *,
        n_latent: int = 20,
        channels: Sequence[int] = (16, 32, 64),
        kernel: int | Sequence[int] = 4,
        hidden: Sequence[int] = (256, 256),
        seed: int = 0,
    ) -> None:
        shape = (1, *shape) if len(shape) == 2 else tuple(shape)
        self._conv = ConvConfig.make(shape, n_latent, channels, kernel, hidden)
        self._config = {"seed": int(seed)}
        self._names = pd.Index([], dtype=object)
        self._history = []

    def __repr__(self) -> str:
        state = f"fitted, {self.fingerprint}" if self._module is not None else "not fitted"
        return f"ImageVAE(shape={self._conv.shape}, n_latent={self.n_latent}; {state})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self._conv.shape

    @property
    def encoder(self) -> ConvEncoder:
        """The torch encoder from images ``(n, c, h, w)``: what `st_concepts.attribution.explain` takes."""
        return self.module.encoder

    def fit(
        self,
        images: Images,
        *,
        max_epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        kl_weight: float = 0.1,
        validation_fraction: float = 0.1,
        patience: int = 20,
        device: str | torch.device = "auto",
        progress: bool = True,
    ) -> Self:
        """Fit; the state with the smallest loss on held-out images is kept.

        Parameters
        ----------
        images
            ``(n, c, h, w)``, ``(n, h, w)`` for one channel or ``(n, h, w, c)``; uint8, or float in [0, 1]. Or an
            `ImageSource`, which is read batch by batch.
        max_epochs, batch_size, lr
            Of Adam.
        kl_weight
            Weight of the KL term against the cross-entropy summed over pixels and channels (the paper's faces: 0.12).
        validation_fraction
            Share of the images to stop on; 0 keeps the last state.
        patience
            Epochs without improvement after which to stop.
        device
            ``"auto"`` takes a CUDA device where there is one.
        progress
            Show a progress bar.

        Returns
        -------
        The model itself; ``history`` has a row per epoch.

        Raises
        ------
        ValueError
            Images of another shape, not between 0 and 1, too few, or an option is out of range.
        """
        check_options(validation_fraction, batch_size, patience, max_epochs)
        load, n = self._source(images)
        if n < 2:
            raise ValueError(f"{n} images are too few to fit on.")
        rows = np.random.default_rng(self._config["seed"]).permutation(n)
        n_held = min(round(validation_fraction * n), n - 2)
        options = ImageFitOptions(
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            schedule="constant",
            kl_weight=kl_weight,
            patience=patience,
            min_delta=0.0,
            seed=self._config["seed"],
            progress=progress,
            name="ImageVAE",
        )
        module = ConvVAE(self._conv, seed=self._config["seed"]).to(as_device(device))
        self._become(module, fit_images(module, load, rows[n_held:], rows[:n_held], options))
        return self

    def embed(self, images: Images, *, batch_size: int = 256) -> np.ndarray:
        """Posterior mean of each image, float32 ``(n, n_latent)``; images that a source cannot read give NaN."""
        if isinstance(images, ImageSource) and not isinstance(images, np.ndarray | torch.Tensor):
            return self._embed_source(images, batch_size)
        x = self.to_tensor(images)
        parts = [self._embed(part) for part in x.split(batch_size)]
        return np.concatenate(parts) if parts else np.empty((0, self.n_latent), dtype=np.float32)

    def _embed_source(self, source: ImageSource, batch_size: int) -> np.ndarray:
        out = np.full((len(source), self.n_latent), np.nan, dtype=np.float32)
        for start in range(0, len(source), batch_size):
            index = np.arange(start, min(start + batch_size, len(source)))
            found = source.load(index)
            if len(found) == len(index):
                out[index] = self._embed(self.to_tensor(found))
                continue
            for i in index:  # some are missing: one by one, so that each lands in its row
                single = source.load(np.array([i]))
                if len(single):
                    out[i] = self._embed(self.to_tensor(single))[0]
        return out

    def concept(self, having: Images, lacking: Images, *, max_images: int = 500) -> np.ndarray:
        """Concept vector ``(n_latent,)``: mean latent vector of images with an attribute minus that of images without.

        At most ``max_images`` of each are used, the first ones, as in Brocki & Chung 2019.

        Raises
        ------
        ValueError
            One of the two is empty.
        """
        means = []
        for what, images in (("having", having), ("lacking", lacking)):
            if isinstance(images, np.ndarray | torch.Tensor):
                latent = self.embed(images[:max_images])
            else:
                latent = self.embed(_First(images, max_images))
            latent = latent[np.isfinite(latent).all(1)].astype(np.float64)
            if not len(latent):
                raise ValueError(f"There are no images in {what!r}; a concept needs images with and without it.")
            means.append(latent.mean(0))
        return means[0] - means[1]

    def score(self, images: Images, concept: np.ndarray) -> np.ndarray:
        """Concept score ``concept . mu(x)`` of each image, float64 ``(n,)``."""
        return self.embed(images).astype(np.float64) @ np.asarray(concept, dtype=np.float64)

    def to_tensor(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images as the model takes them: float32 ``(n, c, h, w)`` in [0, 1]."""
        x = torch.as_tensor(images)
        c, h, w = self.shape
        if x.ndim == 3 and c == 1:
            x = x[:, None]
        elif x.ndim == 4 and tuple(x.shape[1:]) == (h, w, c) != (c, h, w):
            x = x.movedim(-1, 1)
        if x.ndim != 4 or tuple(x.shape[1:]) != (c, h, w):
            raise ValueError(
                f"Images of shape {tuple(x.shape[1:])} do not fit a model of {c} x {h} x {w}; resize them."
            )
        x = x.float() / 255.0 if x.dtype == torch.uint8 else x.float()
        if x.numel() and not (float(x.min()) >= 0.0 and float(x.max()) <= 1.0):
            raise ValueError(
                f"Images must lie between 0 and 1 (or be uint8); these reach from {float(x.min()):.3g} to "
                f"{float(x.max()):.3g}, or hold NaN. Divide by their maximum first."
            )
        return x

    def _source(self, images: Images) -> tuple[Load, int]:
        if isinstance(images, np.ndarray | torch.Tensor):
            x = self.to_tensor(images)
            return (lambda index: x[torch.from_numpy(np.asarray(index))]), len(x)
        if isinstance(images, ImageSource):
            return (lambda index: self.to_tensor(images.load(index))), len(images)
        raise TypeError(f"Images are an array, a tensor or an image source, not {type(images).__name__}.")

    # ------------------------------------------------------------------------------------------- on the disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, configuration and history to one file, through a temporary one."""
        _checkpoint.write(path, self._kind, self.module.state_dict(), self._header())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "auto") -> Self:
        """Read a model that `save` wrote. Nothing in the file is executed.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; not a model file, truncated, changed, or from a newer version.
        """
        return cls._read(path, as_device(device))[0]


class _First:
    """The first ``n`` images of a source."""

    def __init__(self, source: ImageSource, n: int) -> None:
        self.source, self.n = source, min(n, len(source))

    def __len__(self) -> int:
        return self.n

    def load(self, index: np.ndarray) -> np.ndarray:
        return self.source.load(index)
