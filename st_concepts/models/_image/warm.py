"""Warm start of a convolutional VAE: learn a linear latent space first, then improve on it."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from st_concepts.models._image.conv import ConvVAE, elbo_terms
from st_concepts.models._image.fit import Load

_LOG_VAR = -1.0  # of the posterior at the start: some noise, so that the decoder has seen the space between images
_MEAN_WEIGHT = 20.0  # of an error of one unit in a latent mean, against one nat of cross-entropy


def warm_start(
    module: ConvVAE,
    load: Load,
    targets: np.ndarray,
    rows: np.ndarray,
    *,
    mask: torch.Tensor | None,
    n_epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> None:
    """Teach the encoder to give ``targets`` and the decoder to draw images from them; ``module`` is changed in place.

    A randomly initialised encoder spends its first epochs on the noise of single genes. Starting from the principal
    components of the images, which cost nothing, it starts from what genes share. The architecture stays as it is.
    ``targets`` are float32 ``(len(rows), n_latent)``, unit variance a column; ``mask`` is as in `elbo_terms`; Adam has
    one cycle of the learning rate.
    """
    device = module.device
    mask = None if mask is None else mask.to(device)
    goal = torch.from_numpy(targets)
    n_batches = max(1, len(rows) // batch_size)
    with torch.no_grad():
        module.encoder.log_var.bias.fill_(_LOG_VAR)
        share = load(rows[: 10 * batch_size]).to(device)
        occupied = torch.ones_like(share[0, 0]) if mask is None else mask
        mean = ((share * occupied).sum((0, 2, 3)) / (len(share) * occupied.sum())).clamp(1e-3, 1 - 1e-3)
        module.decoder.body[-1].get_parameter("bias").copy_(torch.logit(mean))
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, eps=1e-7)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=n_epochs * n_batches, pct_start=0.25)
    rng = np.random.default_rng(seed)
    module.train()
    for _ in range(n_epochs):
        for batch in np.array_split(rng.permutation(len(rows)), n_batches):
            x, z = load(rows[batch]).to(device, memory_format=torch.channels_last), goal[batch].to(device)
            optimizer.zero_grad(set_to_none=True)
            mean, log_var = module.encoder(x)
            bce, _ = elbo_terms(module.decoder(z), x, mean, log_var, mask)
            (_MEAN_WEIGHT * F.mse_loss(mean, z) + bce).backward()
            optimizer.step()
            schedule.step()
    module.eval()
