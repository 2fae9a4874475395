"""The convolutional VAE of Brocki & Chung 2019, for images of any size and number of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ConvConfig:
    """Architecture of a `ConvVAE`.

    Attributes
    ----------
    shape
        ``(channels, height, width)`` of an image.
    n_latent
        Number of latent dimensions.
    channels
        Output channels of the convolution blocks; each block halves the image.
    kernels
        Kernel side of each block.
    hidden
        Widths of the dense layers between the convolutions and the latent mean.
    """

    shape: tuple[int, int, int]
    n_latent: int = 20
    channels: tuple[int, ...] = (16, 32, 64)
    kernels: tuple[int, ...] = (4, 4, 4)
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be (channels, height, width), all above zero, not {self.shape}.")
        if not self.channels or len(self.channels) != len(self.kernels):
            raise ValueError(
                f"channels={self.channels} and kernels={self.kernels} must be equally many, and at least one."
            )
        if min(*self.channels, *self.kernels, self.n_latent, *self.hidden) < 1 or min(self.kernels) < 2:
            raise ValueError("channels, hidden and n_latent must be at least 1, kernels at least 2.")

    @classmethod
    def make(
        cls,
        shape: Sequence[int],
        n_latent: int,
        channels: Sequence[int],
        kernel: int | Sequence[int],
        hidden: Sequence[int],
    ) -> ConvConfig:
        """The same from any sequences; one ``kernel`` serves all blocks."""
        kernels = (kernel,) * len(channels) if isinstance(kernel, int) else tuple(kernel)
        return cls(tuple(shape), int(n_latent), tuple(channels), kernels, tuple(hidden))  # type: ignore[arg-type]  # checked above

    def to_dict(self) -> dict[str, Any]:
        """For the header of a model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConvConfig:
        """The inverse of `to_dict`, lists from JSON included."""
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        return cls(**read)

    @property
    def coarse(self) -> tuple[int, int]:
        """Height and width behind the last block."""
        step = 2 ** len(self.channels)
        return math.ceil(self.shape[1] / step), math.ceil(self.shape[2] / step)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Pixels added left, right, top and bottom so that every block halves the image exactly."""
        step = 2 ** len(self.channels)
        tall, wide = (n * step - m for n, m in zip(self.coarse, self.shape[1:], strict=True))
        return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2


def _norm(width: int, *, flat: bool = False) -> nn.Module:
    # the epsilon of Keras, in which the paper's models were written: pixels that never vary must not blow up
    return nn.BatchNorm1d(width, eps=1e-3) if flat else nn.BatchNorm2d(width, eps=1e-3)


class ConvEncoder(nn.Module):
    """Images ``(n, c, h, w)`` to latent mean and log variance, ``(n, n_latent)`` each.

    Every rectified linear unit is a module of its own and runs once, so that any attribution method can follow it.
    """

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.ZeroPad2d(config.padding)]
        last = config.shape[0]
        for width, kernel in zip(config.channels, config.kernels, strict=True):
            # even kernels: (k - 1) // 2 on the left halves exactly; odd ones need as much on both sides
            blocks += [nn.Conv2d(last, width, kernel, stride=2, padding=(kernel - 1) // 2), nn.ReLU(), _norm(width)]
            last = width
        blocks.append(nn.Flatten())
        last *= math.prod(config.coarse)
        for width in config.hidden:
            blocks += [nn.Linear(last, width), nn.ReLU(), _norm(width, flat=True)]
            last = width
        self.body = nn.Sequential(*blocks)
        self.mean = nn.Linear(last, config.n_latent)
        self.log_var = nn.Linear(last, config.n_latent)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean first: `st_concepts.attribution.explain` reads that."""
        h = self.body(x)
        return self.mean(h), self.log_var(h)


class ConvDecoder(nn.Module):
    """Latent vectors ``(n, n_latent)`` to logits of pixels ``(n, c, h, w)``."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        blocks: list[nn.Module] = [
            nn.Linear(config.n_latent, widths[0] * math.prod(config.coarse)),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], *config.coarse)),
            _norm(widths[0]),
        ]
        last = widths[0]
        for width, kernel in zip(widths, config.kernels[::-1], strict=True):
            pad = (kernel - 1) // 2
            blocks += [
                nn.ConvTranspose2d(last, width, kernel, stride=2, padding=pad, output_padding=2 + 2 * pad - kernel),
                nn.ReLU(),
                _norm(width),
            ]
            last = width
        kernel = config.kernels[0]
        before, after = (kernel - 1) // 2, kernel // 2
        blocks += [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(last, config.shape[0], kernel)]
        self.body = nn.Sequential(*blocks)
        self.crop = tuple(-p for p in config.padding)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits; their sigmoid is the picture."""
        return F.pad(self.body(z), self.crop)


class ConvVAE(nn.Module):
    """Encoder and decoder, initialised from a seed without touching torch's global generator.

    Parameters
    ----------
    config
        The architecture.
    seed
        Seed of the Glorot-uniform weights (what Keras does by default); biases start at zero.
    """

    def __init__(self, config: ConvConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            self.encoder = ConvEncoder(config)
            self.decoder = ConvDecoder(config)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        # a third faster on CPUs than channels first
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which the types of torch leave out

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.mean.weight.device

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the reconstruction from one posterior sample, latent mean and log variance."""
        mean, log_var = self.encoder(x)
        return self.decoder(mean + noise * (0.5 * log_var).exp()), mean, log_var


def elbo_terms(
    logits: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy summed over the pixels in ``mask``, and KL to the standard normal; means over images.

    ``logits`` and ``x`` (0 to 1) are ``(n, c, h, w)``, ``mean`` and ``log_var`` ``(n, n_latent)``; ``mask`` is float
    ``(h, w)``, 1 for pixels that count, 0 for empty ones; `None` counts all.
    """
    n = x.shape[0]
    bce = F.binary_cross_entropy_with_logits(
        logits, x, weight=None if mask is None else mask.expand_as(x), reduction="sum"
    )
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1.0).sum()
    return bce / n, kl / n
