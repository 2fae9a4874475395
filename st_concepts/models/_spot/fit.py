"""The fit loop: molecular cross-validation, Adam on the ELBO, best state kept. Tensors in, history out."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.sparse import row_numbers
from st_concepts._log import bar
from st_concepts.models._spot.data import SpotData
from st_concepts.models._spot.histogram import CountHistogram
from st_concepts.models._spot.likelihood import nb_rest
from st_concepts.models._spot.module import SpotModule
from st_concepts.models._spot.rows import Batch, use_sparse
from st_concepts.models._spot.runtime import Runtime, SingleProcess
from st_concepts.models._spot.state import Checkpoints, FitState

_THETA_RATE = 20.0
_FUSED = tuple(int(v) for v in torch.__version__.split(".")[:2]) >= (2, 4)  # fused AdamW on the CPU
_JUDGE_BATCH = 256


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


def check_finite(loss: float, epoch: int, lr: float) -> None:
    """`FloatingPointError` where the loss of an epoch is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss became non-finite in epoch {epoch} with lr={lr}. Call fit() with a smaller lr."
        )


@torch.no_grad()
def held_out_nll(module: SpotModule, data: SpotData) -> float:
    """Negative log likelihood per spot of the molecules held out, at the posterior mean given the training counts."""
    held, histogram = data.held_out, data.held_histogram
    if held is None or histogram is None:
        return math.nan
    module.eval()
    device = module.encoder_weight.device
    total = float(histogram.to(device).log_likelihood(module.log_theta))
    sparse = use_sparse(data.density, device)
    for first in range(0, data.sample.n, _JUDGE_BATCH):
        last = min(first + _JUDGE_BATCH, data.sample.n)
        batch = data.sample.cut(first, last).batch(device, sparse=sparse, transpose=False)
        counts = held[first:last]
        row = row_numbers(torch.from_numpy(counts.indptr.astype(np.int64)).to(device), counts.nnz)
        gene = torch.from_numpy(counts.indices).to(device).long()
        size = torch.from_numpy(np.asarray(counts.sum(1), dtype=np.float32).ravel()).to(device)
        logits = module.logits(module.rest(module.preactivations(batch.x, batch.codes)), batch.codes)
        total += float(nb_rest(logits, module.log_theta, row, gene, torch.from_numpy(counts.data).to(device), size))
    return -total / data.sample.n


def elbo_loss(
    module: SpotModule,
    batch: Batch,
    histogram: CountHistogram,
    *,
    kl_weight: float,
    noise: torch.Tensor,
    n: float | None = None,
) -> torch.Tensor:
    """Negative evidence lower bound per spot of one batch, one posterior sample.

    ``n`` is the number of spots of the step where ``batch`` is a part of them: the sum over the parts less the
    dispersion term, which every part has in full, is then the loss of the step.
    """
    n = n or batch.n
    mean, log_var = module.rest.posterior(module.preactivations(batch.x, batch.codes))
    z = mean + noise * (0.5 * log_var).exp()
    rest = nb_rest(module.logits(z, batch.codes), module.log_theta, batch.row, batch.gene, batch.counts, batch.size)
    # the dispersion term of the whole data set, shared out to its spots: less noisy than that of the batch
    log_likelihood = rest / n + histogram.log_likelihood(module.log_theta) / histogram.n_obs
    kl = 0.5 * (mean**2 + log_var.exp() - log_var - 1.0).sum() / n
    return kl_weight * kl - log_likelihood


class Elbo(nn.Module):
    """`elbo_loss` as a module, which is what Fabric wraps."""

    def __init__(self, module: SpotModule, histogram: CountHistogram, kl_weight: float) -> None:
        super().__init__()
        self.module, self.histogram, self.kl_weight = module, histogram, kl_weight

    def forward(self, batch: Batch, noise: torch.Tensor, n: int, n_parts: int) -> torch.Tensor:
        """Loss of a part of a step; the mean over ``n_parts`` processes is the loss of the step."""
        # gradients are averaged over the processes: what is summed over spots counts n_parts times
        return elbo_loss(self.module, batch, self.histogram, kl_weight=self.kl_weight, noise=noise, n=n / n_parts)


def parameter_groups(module: SpotModule, lr: float) -> list[dict[str, Any]]:
    """Learning rates by what a step of Adam does to the output.

    Every weight moves by about the same amount a step, so a unit that sums over all genes moves by that amount times
    the number of genes: the first layer gets ``lr`` times width over genes, as in muP (Yang et al. 2021, table 3).
    The log dispersions, one number a gene with a well-conditioned likelihood of its own, get more.
    """
    first = [module.encoder_weight, module.bias]
    special = {id(p) for p in (*first, module.log_theta)}
    n_vars, width = module.encoder_weight.shape
    return [
        {"params": [p for p in module.parameters() if id(p) not in special], "lr": lr},
        {"params": first, "lr": lr * min(1.0, width / n_vars)},
        {"params": [module.log_theta], "lr": lr * _THETA_RATE},
    ]


def fit_module(
    module: SpotModule,
    data: SpotData,
    options: FitOptions,
    runtime: Runtime | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[list[dict[str, float]], int]:
    """Train ``module`` in place and leave it in its best state; epoch 0 is the start itself.

    Gives a record per epoch (``epoch``, ``train_loss``, NaN at 0, ``validation_nll``, NaN without held-out counts) and
    the epoch whose state was kept. Where ``checkpoints`` hold a state, the fit goes on from there.
    """
    runtime = runtime or SingleProcess(module.encoder_weight.device)
    if options.max_epochs == 0 and checkpoints is None:  # an optimizer costs a second of imports
        module.eval()
        return [{"epoch": 0, "train_loss": math.nan, "validation_nll": held_out_nll(module, data)}], 0
    optimizer = torch.optim.AdamW(
        parameter_groups(module, options.lr), lr=options.lr, weight_decay=options.weight_decay, fused=_FUSED
    )
    state = FitState.begin(module, optimizer, options.seed, runtime.device)
    if checkpoints is None or not checkpoints.restore(state):
        state.record(math.nan, held_out_nll(module, data))
        state.keep(state.history[0]["validation_nll"])
        _save(checkpoints, state, runtime)
    elbo, stepper = runtime.setup(Elbo(module, data.histogram.to(runtime.device), options.kl_weight), optimizer)
    done = state.epoch  # epochs that are complete
    shown = bar(
        range(done + 1, 1 + (done if state.stopped(options.patience) else options.max_epochs)),
        desc="SpotVAE",
        unit="epoch",
        progress=options.progress and runtime.rank == 0,
    )
    try:
        for epoch in shown:
            loss = _train_epoch(elbo, data, stepper, options, runtime, state, checkpoints)
            nll = held_out_nll(module, data)
            check_finite(loss if data.held_out is None else loss + nll, epoch, options.lr)
            state.record(loss, nll)
            shown.set_postfix(loss=f"{loss:.1f}", held_out=f"{nll:.2f}")
            if data.held_out is None or nll < state.best - options.min_delta * abs(state.best):
                state.keep(nll)
            _save(checkpoints, state, runtime)
            if state.stopped(options.patience):
                break
    except KeyboardInterrupt:
        warnings.warn(
            f"Fit interrupted in epoch {len(state.history)}; the state of epoch {state.best_epoch} is kept.",
            UserWarning,
            stacklevel=callers_level(),
        )
    finally:
        shown.close()
    module.load_state_dict(state.best_state)
    module.eval()
    return state.history, state.best_epoch


def _save(checkpoints: Checkpoints | None, state: FitState, runtime: Runtime) -> None:
    if checkpoints is not None and runtime.rank == 0:
        checkpoints.write(state)


def _train_epoch(
    elbo: nn.Module,
    data: SpotData,
    optimizer: Any,
    options: FitOptions,
    runtime: Runtime,
    state: FitState,
    checkpoints: Checkpoints | None,
) -> float:
    """One pass over the spots in random order, or what is left of it; mean loss per spot."""
    state.module.train()
    device, theta = runtime.device, state.module.log_theta
    sparse = use_sparse(data.density, device)
    last = time.monotonic()
    state.begin_epoch()
    for part in data.ordered(state.rng, options.batch_size, state.step):
        n = part.n
        noise = torch.randn(n, state.module.n_latent, generator=state.generator, device=device)
        mine = _share(n, runtime)
        batch = part.cut(mine.start, mine.stop).batch(device, sparse=sparse)
        optimizer.zero_grad(set_to_none=True)
        loss = elbo(batch, noise[mine], n, runtime.size)
        runtime.backward(loss)
        optimizer.step()
        with torch.no_grad():  # a gene without counts has no finite best dispersion
            theta.clamp_(-8.0, 12.0)
        state.loss += loss.detach() * n
        state.step += 1
        if checkpoints is not None and checkpoints.minutes and time.monotonic() - last > 60 * checkpoints.minutes:
            _save(checkpoints, state, runtime)
            last = time.monotonic()
    return float(runtime.mean(state.loss)) / data.n_obs


def _share(n: int, runtime: Runtime) -> slice:
    """Spots of a step that this process takes."""
    return slice(n * runtime.rank // runtime.size, n * (runtime.rank + 1) // runtime.size)
