"""The fit loop of models of images: Adam on the ELBO, stopping on held-out images, best state kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from st_concepts._log import bar
from st_concepts.models._image.conv import ConvVAE, elbo_terms
from st_concepts.models._spot.fit import check_finite

Load = Callable[[np.ndarray], torch.Tensor]
"""Indices ``(b,)`` to images ``(b', c, h, w)`` between 0 and 1; ``b'`` is smaller than ``b`` where some are missing."""


@dataclass(frozen=True)
class ImageFitOptions:
    """What the loop needs to know; see `GeneVAE.fit` for the meaning of each."""

    max_epochs: int
    batch_size: int
    lr: float
    schedule: Literal["constant", "one_cycle"]
    kl_weight: float
    patience: int
    min_delta: float
    seed: int
    progress: bool
    name: str


def check_options(share: float, batch_size: int, patience: int, max_epochs: int | None) -> None:
    """`ValueError` where an option of `ImageVAE.fit` or `GeneVAE.fit` is out of range."""
    if not 0.0 <= share < 1.0:
        raise ValueError(f"validation_fraction={share} must be at least 0 and below 1.")
    if batch_size < 2 or patience < 1 or (max_epochs is not None and max_epochs < 0):
        raise ValueError("batch_size must be at least 2, patience at least 1, max_epochs at least 0.")


@torch.no_grad()
def held_out_loss(
    module: ConvVAE,
    load: Load,
    index: np.ndarray,
    mask: torch.Tensor | None,
    kl_weight: float,
    batch_size: int = 512,
) -> float:
    """Cross-entropy (summed over pixels) + weighted KL per image, reconstructed from the posterior mean."""
    module.eval()
    total, n = 0.0, 0
    for start in range(0, len(index), batch_size):
        x = load(index[start : start + batch_size]).to(module.device, memory_format=torch.channels_last)
        if not len(x):
            continue
        mean, log_var = module.encoder(x)
        bce, kl = elbo_terms(module.decoder(mean), x, mean, log_var, mask)
        total, n = total + float(bce + kl_weight * kl) * len(x), n + len(x)
    return total / n if n else math.nan


def fit_images(
    module: ConvVAE,
    load: Load,
    train: np.ndarray,
    held_out: np.ndarray,
    options: ImageFitOptions,
    *,
    mask: torch.Tensor | None = None,
) -> list[dict[str, float]]:
    """Train ``module`` in place; leave it, in eval mode, in the state with the smallest held-out loss, or the last.

    Gives one record per epoch, the start included: ``epoch``, ``train_loss`` (cross-entropy + weighted KL per image),
    ``validation_loss`` (NaN without held-out images), ``kl`` (nats per image).
    """
    device = module.device
    mask = None if mask is None else mask.to(device)
    rng = np.random.default_rng(options.seed)
    generator = torch.Generator(device=device).manual_seed(options.seed)
    # a last batch of one image has no variance to normalise by
    n_batches = max(1, len(train) // options.batch_size)
    optimizer = torch.optim.Adam(module.parameters(), lr=options.lr, eps=1e-7)
    schedule = None
    if options.schedule == "one_cycle" and options.max_epochs:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.lr, total_steps=options.max_epochs * n_batches, pct_start=0.25
        )

    def judge() -> float:
        return held_out_loss(module, load, held_out, mask, options.kl_weight) if len(held_out) else math.nan

    best, best_epoch = judge(), 0
    history = [{"epoch": 0, "train_loss": math.nan, "validation_loss": best, "kl": math.nan}]
    best_state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    epochs = bar(range(1, options.max_epochs + 1), desc=options.name, unit="epoch", progress=options.progress)
    try:
        for epoch in epochs:
            module.train()
            total = total_kl = 0.0
            n = 0
            for rows in np.array_split(rng.permutation(train), n_batches):
                x = load(rows).to(device, memory_format=torch.channels_last)
                if len(x) < 2:
                    continue
                noise = torch.randn(len(x), module.config.n_latent, generator=generator, device=device)
                optimizer.zero_grad(set_to_none=True)
                logits, mean, log_var = module(x, noise)
                bce, kl = elbo_terms(logits, x, mean, log_var, mask)
                loss = bce + options.kl_weight * kl
                loss.backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                n += len(x)
                total += float(loss.detach()) * len(x)
                total_kl += float(kl.detach()) * len(x)
            if n == 0:
                raise ValueError("No batch held two or more images; fewer images are missing or batch_size is larger.")
            check_finite(total, epoch, options.lr)
            judged = judge()
            history.append({"epoch": epoch, "train_loss": total / n, "validation_loss": judged, "kl": total_kl / n})
            epochs.set_postfix(loss=f"{total / n:.2f}", held_out=f"{judged:.2f}")
            if math.isnan(judged) or judged < best - options.min_delta * abs(best):
                best, best_epoch = judged, epoch
                for name, value in module.state_dict().items():
                    best_state[name].copy_(value)
            elif epoch - best_epoch >= options.patience:
                break
    finally:
        epochs.close()
        module.load_state_dict(best_state)
        module.eval()
    return history
