"""The fit loop: molecular cross-validation, Adam on the ELBO, best state kept. Tensors in, history out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts.models._features import log_normalize
from st_concepts.models._likelihood import CountHistogram, nb_rest
from st_concepts.models._modules import SpotModule


@dataclass(frozen=True)
class FitOptions:
    """What the loop needs to know; see `SpotVAE.fit` for the meaning of each."""

    max_epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    kl_weight: float
    patience: int
    min_delta: float
    seed: int
    progress: bool


@dataclass
class FitData:
    """Counts to fit and counts to stop on, of the same spots.

    Attributes
    ----------
    train, held_out
        CSR counts ``(n_obs, n_vars)``; ``held_out`` is `None` where there is no early stopping.
    codes
        Section code of each spot, or `None`.
    target_sum
        Scale of the features.
    """

    train: sp.csr_matrix
    held_out: sp.csr_matrix | None
    codes: np.ndarray | None
    target_sum: float
    features: sp.csr_matrix = field(init=False)

    def __post_init__(self) -> None:
        self.features = log_normalize(self.train, self.target_sum)

    @property
    def n_obs(self) -> int:
        """Number of spots."""
        return self.train.shape[0]

    def batches(
        self, counts: sp.csr_matrix, batch_size: int, device: torch.device, order: np.ndarray | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Dense (features, counts, codes) of consecutive rows, or of the rows in ``order``."""
        for start in range(0, self.n_obs, batch_size):
            stop = min(start + batch_size, self.n_obs)
            rows: Any = slice(start, stop) if order is None else order[start:stop]
            codes = None if self.codes is None else torch.from_numpy(self.codes[rows]).to(device)
            yield dense(self.features[rows], device), dense(counts[rows], device), codes


def dense(block: sp.csr_matrix, device: torch.device) -> torch.Tensor:
    """A CSR batch as a dense float32 tensor."""
    return torch.from_numpy(block.toarray().astype(np.float32, copy=False)).to(device)


def thin(counts: sp.csr_matrix, fraction: float, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split counts molecule by molecule: each goes to the second part with probability ``fraction``.

    The two parts are independent given the expression level when counts are Poisson (Batson, Royce & Webber 2019,
    *Molecular cross-validation for single-cell RNA-seq*), so one can judge a fit to the other with no spot held out.

    Examples
    --------
    >>> a, b = thin(sp.csr_matrix([[3.0, 0.0], [5.0, 2.0]]), 0.5, seed=0)
    >>> (a + b).toarray()
    array([[3., 0.],
           [5., 2.]], dtype=float32)
    """
    second = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), fraction)
    parts = []
    for data in (counts.data - second, second):
        part = sp.csr_matrix((data.astype(np.float32), counts.indices.copy(), counts.indptr.copy()), counts.shape)
        part.eliminate_zeros()
        parts.append(part)
    return parts[0], parts[1]


@torch.no_grad()
def held_out_nll(
    module: SpotModule, data: FitData, counts: sp.csr_matrix, histogram: CountHistogram, batch_size: int
) -> float:
    """Negative log likelihood per spot of ``counts`` at the posterior mean given the training counts."""
    module.eval()
    device = module.weight.device
    total = float(histogram.log_likelihood(module.log_theta))
    for x, c, codes in data.batches(counts, batch_size, device):
        z = module.rest(module.preactivations(x, codes))
        total += float(nb_rest(module.logits(z, codes), module.log_theta, c, c.sum(1)))
    return -total / data.n_obs


def elbo_loss(
    module: SpotModule,
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    histogram: CountHistogram,
    *,
    kl_weight: float,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Negative evidence lower bound per spot of one batch, one posterior sample."""
    x, counts, codes = batch
    n = x.shape[0]
    mean, log_var = module.rest.posterior(module.preactivations(x, codes))
    z = mean + noise * (0.5 * log_var).exp()
    rest = nb_rest(module.logits(z, codes), module.log_theta, counts, counts.sum(1))
    # the dispersion term of the whole data set, shared out to its spots: less noisy than that of the batch
    log_likelihood = rest / n + histogram.log_likelihood(module.log_theta) / histogram.n_obs
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1.0).sum() / n
    return kl_weight * kl - log_likelihood


def fit_module(module: SpotModule, data: FitData, options: FitOptions) -> tuple[list[dict[str, float]], int]:
    """Train ``module`` in place and leave it in its best state; epoch 0 is the start itself.

    Returns
    -------
    One record per epoch, ``epoch``, ``train_loss`` (NaN at 0), ``validation_nll`` (NaN without held-out counts), and
    the epoch whose state was kept.
    """
    from tqdm.auto import tqdm

    device = module.weight.device
    histogram = CountHistogram.of(data.train).to(device)
    held = data.held_out
    held_histogram = None if held is None else CountHistogram.of(held).to(device)
    rng = np.random.default_rng(options.seed)
    generator = torch.Generator(device=device).manual_seed(options.seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=options.lr, weight_decay=options.weight_decay)

    def judge() -> float:
        if held is None or held_histogram is None:
            return math.nan
        return held_out_nll(module, data, held, held_histogram, options.batch_size)

    history = [{"epoch": 0, "train_loss": math.nan, "validation_nll": judge()}]
    best, best_epoch = history[0]["validation_nll"], 0
    best_state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    bar = tqdm(range(1, options.max_epochs + 1), desc="SpotVAE", unit="epoch", disable=not options.progress)
    try:
        for epoch in bar:
            module.train()
            total = 0.0
            for batch in data.batches(data.train, options.batch_size, device, rng.permutation(data.n_obs)):
                noise = torch.randn(
                    batch[0].shape[0], module.rest.n_latent, generator=generator, device=device, dtype=torch.float32
                )
                optimizer.zero_grad(set_to_none=True)
                loss = elbo_loss(module, batch, histogram, kl_weight=options.kl_weight, noise=noise)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1e4)
                optimizer.step()
                total += float(loss.detach()) * batch[0].shape[0]
            nll = judge()
            history.append({"epoch": epoch, "train_loss": total / data.n_obs, "validation_nll": nll})
            bar.set_postfix(loss=f"{total / data.n_obs:.1f}", held_out=f"{nll:.2f}")
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"The loss became non-finite in epoch {epoch} with lr={options.lr}. "
                    "Call fit() with a smaller lr; the model was left at its best state."
                )
            if math.isnan(nll) or nll < best - options.min_delta * abs(best):
                best, best_epoch = nll, epoch
                for name, value in module.state_dict().items():
                    best_state[name].copy_(value)
            elif epoch - best_epoch >= options.patience:
                break
    finally:
        bar.close()
        module.load_state_dict(best_state)
        module.eval()
    return history, best_epoch
