"""The fit loop: molecular cross-validation, Adam on the ELBO, best state kept. Tensors in, history out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from st_concepts.models._features import log_normalize
from st_concepts.models._likelihood import CountHistogram, nb_rest
from st_concepts.models._modules import SpotModule

_THETA_RATE = 20.0
_FUSED = tuple(int(v) for v in torch.__version__.split(".")[:2]) >= (2, 4)  # fused AdamW on the CPU


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


def parameter_groups(module: SpotModule, lr: float) -> list[dict[str, Any]]:
    """Learning rates by what a step of Adam does to the output.

    Every weight moves by about the same amount a step, so a unit that sums over all genes moves by that amount times
    the number of genes: the first layer gets ``lr`` times width over genes, as in muP (Yang et al. 2021, table 3).
    The log dispersions, one number a gene with a well-conditioned likelihood of its own, get more.
    """
    first = [module.weight, module.bias]
    special = {id(p) for p in (*first, module.log_theta)}
    width, n_vars = module.weight.shape
    return [
        {"params": [p for p in module.parameters() if id(p) not in special], "lr": lr},
        {"params": first, "lr": lr * min(1.0, width / n_vars)},
        {"params": [module.log_theta], "lr": lr * _THETA_RATE},
    ]


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
    optimizer = torch.optim.AdamW(
        parameter_groups(module, options.lr), lr=options.lr, weight_decay=options.weight_decay, fused=_FUSED
    )

    def judge() -> float:
        if held is None or held_histogram is None:
            return math.nan
        return held_out_nll(module, data, held, held_histogram, max(options.batch_size, 256))

    history = [{"epoch": 0, "train_loss": math.nan, "validation_nll": judge()}]
    best, best_epoch = history[0]["validation_nll"], 0
    best_state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    bar = tqdm(range(1, options.max_epochs + 1), desc="SpotVAE", unit="epoch", disable=not options.progress)
    try:
        for epoch in bar:
            loss, nll = _train_epoch(module, data, histogram, optimizer, options, rng, generator), judge()
            if not math.isfinite(loss) or (held is not None and not math.isfinite(nll)):
                raise FloatingPointError(
                    f"The loss became non-finite in epoch {epoch} with lr={options.lr}. Call fit() with a smaller lr."
                )
            history.append({"epoch": epoch, "train_loss": loss, "validation_nll": nll})
            bar.set_postfix(loss=f"{loss:.1f}", held_out=f"{nll:.2f}")
            if held is None or nll < best - options.min_delta * abs(best):
                best, best_epoch = nll, epoch
                for name, value in module.state_dict().items():
                    best_state[name].copy_(value)
            elif epoch - best_epoch >= options.patience:
                break
    except KeyboardInterrupt:
        warnings.warn(
            f"Fit interrupted in epoch {len(history)}; the state of epoch {best_epoch} is kept.",
            UserWarning,
            stacklevel=3,
        )
    finally:
        bar.close()
    module.load_state_dict(best_state)
    module.eval()
    return history, best_epoch


def _train_epoch(
    module: SpotModule,
    data: FitData,
    histogram: CountHistogram,
    optimizer: torch.optim.Optimizer,
    options: FitOptions,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> float:
    """One pass over the spots in random order; mean loss per spot."""
    module.train()
    device = module.weight.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for batch in data.batches(data.train, options.batch_size, device, rng.permutation(data.n_obs)):
        n = batch[0].shape[0]
        noise = torch.randn(n, module.rest.n_latent, generator=generator, device=device)
        optimizer.zero_grad(set_to_none=True)
        loss = elbo_loss(module, batch, histogram, kl_weight=options.kl_weight, noise=noise)
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # a gene without counts has no finite best dispersion
            module.log_theta.clamp_(-8.0, 12.0)
        total += loss.detach() * n
    return float(total) / data.n_obs
