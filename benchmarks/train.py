"""Held-out likelihood and wall time of a fit, next to scvi-tools: ``python -m benchmarks.train``.

The molecules of one real section are split in two halves; models are fitted to one and judged by the negative binomial
log likelihood of the other, at the posterior mean and with the held-out total of each spot, for every model alike.
Then 20,000 simulated spots x 5,000 genes, where equal batches and widths are compared, and the steps are profiled.
Clocks begin after all imports.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData

import st_concepts as stc
from benchmarks._common import environment, table, write_json
from st_concepts._counts.split import thin
from st_concepts.models._spot.likelihood import nb_log_prob

_LEAST_MOLECULES = 100  # spots below are not tissue
_MIN_SPOTS = 20  # genes seen in fewer are left out
_BATCH = 256


def halves(adata: AnnData, seed: int = 0) -> tuple[AnnData, AnnData]:
    """Two halves of the molecules of the same spots and genes."""
    X = sp.csr_matrix(adata.X).astype(np.float32)
    first, second = thin(X, 0.5, seed)
    return tuple(AnnData(half, obs=adata.obs[[]].copy(), var=adata.var[[]].copy()) for half in (first, second))


def section(replicate: int) -> AnnData:
    """A real section: spots with molecules, genes seen in at least 20 spots."""
    adata = stc.datasets.mouse_olfactory_bulb(replicate)
    adata = adata[np.asarray(adata.X.sum(1)).ravel() >= _LEAST_MOLECULES]
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= _MIN_SPOTS].copy()


def simulate(n_obs: int, n_vars: int, *, density: float = 0.05, n_programs: int = 8, seed: int = 0) -> AnnData:
    """Negative binomial counts of spots that mix a few programs, made in row blocks; about ``density`` nonzero."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(0.4, 1.0, n_vars) + 1e-3
    programs = np.exp(rng.normal(0, 0.8, (n_programs, n_vars))) * base
    programs /= programs.sum(1, keepdims=True)
    # mean total that gives the density asked for, by bisection on the expected share of zeros
    low, high = 1.0, 1e6
    for _ in range(40):
        total = (low * high) ** 0.5
        share = 1 - np.mean((1 + total * programs.mean(0) / 5.0) ** -5.0)
        low, high = (total, high) if share < density else (low, total)
    blocks = []
    for start in range(0, n_obs, 1024):
        n = min(1024, n_obs - start)
        mean = rng.dirichlet(np.full(n_programs, 0.3), n) @ programs * total * rng.lognormal(0, 0.3, (n, 1))
        blocks.append(sp.csr_matrix(rng.poisson(mean * rng.gamma(5.0, 0.2, mean.shape)).astype(np.float32)))
    return AnnData(sp.vstack(blocks, format="csr"))


def nll(shares: Callable[[slice], torch.Tensor], theta: torch.Tensor, held: AnnData) -> float:
    """Mean negative log likelihood per spot of ``held`` where ``shares(rows)`` are the expected proportions."""
    total = 0.0
    for start in range(0, held.n_obs, _BATCH):
        rows = slice(start, min(start + _BATCH, held.n_obs))
        counts = torch.from_numpy(held.X[rows].toarray()).double()
        mean = shares(rows).double() * counts.sum(1, keepdim=True)
        total -= float(nb_log_prob(counts, mean, theta.double()).sum())
    return total / held.n_obs


def run_ours(train: AnnData, held: AnnData, *, init: str, n_latent: int, **fit: Any) -> dict[str, Any]:
    """Fit with defaults (or ``fit``); NLL at the start and at the end, seconds to each."""
    begin = time.perf_counter()
    start = stc.SpotVAE(train, n_latent=n_latent, init=init).fit(max_epochs=0, validation_fraction=0, progress=False)
    to_start = time.perf_counter() - begin
    begin = time.perf_counter()
    model = stc.SpotVAE(train, n_latent=n_latent, init=init).fit(progress=False, **fit)
    seconds = time.perf_counter() - begin
    return {
        "model": f"SpotVAE(init={init!r})",
        "n_latent": n_latent,
        "epochs": len(model.history) - 1,
        "start_nll": -float(start.get_likelihood(train, target=held).mean()),
        "start_seconds": to_start,
        "nll": -float(model.get_likelihood(train, target=held).mean()),
        "seconds": seconds,
    }


def run_scvi(train: AnnData, held: AnnData, *, epochs: int, every: int, **options: Any) -> dict[str, Any]:
    """``SCVI(n_layers=1, gene_likelihood="nb")`` with its own defaults; the curve excludes the time to judge."""
    import scvi
    from lightning.pytorch.callbacks import Callback

    adata = train.copy()
    fit_options = {k: options.pop(k) for k in ("batch_size",) if k in options}
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, n_layers=1, gene_likelihood="nb", **options)
    curve: list[dict[str, float]] = []

    @torch.no_grad()
    def judge(module: Any) -> float:
        def shares(rows: slice) -> torch.Tensor:
            x = torch.from_numpy(adata.X[rows].toarray())
            batch = torch.zeros(len(x), 1)
            seen = module.inference(x=x, batch_index=batch)
            made = module.generative(z=seen["qz"].loc, library=seen["library"], batch_index=batch)
            return made["px"].scale

        return nll(shares, module.px_r.detach().exp(), held)

    class Judge(Callback):
        """Held-out likelihood every few epochs; its own time is taken off the clock."""

        begin, away = time.perf_counter(), 0.0

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch, now = trainer.current_epoch + 1, time.perf_counter()
            if epoch % every and epoch != epochs:
                return
            pl_module.module.eval()
            value = judge(pl_module.module)
            pl_module.module.train()
            curve.append({"epoch": epoch, "seconds": now - self.begin - self.away, "nll": value})
            print(f"  scvi epoch {epoch}: {value:.1f} after {curve[-1]['seconds']:.1f} s", flush=True)
            self.away += time.perf_counter() - now

    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        watcher = Judge()
        watcher.begin = time.perf_counter()
        model.train(
            max_epochs=epochs,
            train_size=1.0,
            accelerator="cpu",
            enable_progress_bar=False,
            logger=False,
            callbacks=[watcher],
            **fit_options,
        )
    best = min(curve, key=lambda row: row["nll"])
    last = curve[-1]
    return {
        "model": "scvi SCVI(n_layers=1, gene_likelihood='nb')",
        "n_latent": options.get("n_latent", 10),
        "epochs": epochs,
        "nll": last["nll"],
        "seconds": last["seconds"],
        "best_nll": best["nll"],
        "best_epoch": best["epoch"],
        "best_seconds": best["seconds"],
        "curve": curve,
    }


def gemm_rate(size: int = 1536, repeats: int = 8) -> float:
    """Float32 floating point operations a second of a square matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    begin = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


def step_flops(n_vars: int, batch: int, nonzeros: float, n_latent: int, n_hidden: int) -> tuple[float, float]:
    """Floating point operations of the products of one step: those made, and those of a dense step.

    The decoder takes three dense products (output, gradients of latent and weight), the encoder two (output, gradient
    of the weight) over all genes or, sparse, over the nonzeros.
    """
    wide = n_latent + n_hidden
    small = 2.0 * batch * n_hidden * n_latent * 9
    decoder = 3 * 2.0 * batch * n_vars * wide
    return decoder + 2 * 2.0 * nonzeros * wide + small, decoder + 2 * 2.0 * batch * n_vars * wide + small


def profile_epoch(train: AnnData, batch: int, rows: int = 14) -> list[dict[str, Any]]:
    """Where an epoch goes, by operator: the main rows of torch's profile."""
    from torch.profiler import ProfilerActivity, profile

    model = stc.SpotVAE(train, n_latent=10)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        model.fit(max_epochs=1, batch_size=batch, validation_fraction=0, progress=False)
    averages = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in averages)
    return [
        {
            "operator": e.key,
            "calls": e.count,
            "seconds": e.self_cpu_time_total / 1e6,
            "share": e.self_cpu_time_total / total,
        }
        for e in averages[:rows]
    ]


def compare_section(replicate: int, epochs: int, every: int) -> list[dict[str, Any]]:
    """The real section: SpotVAE with both starts and scvi."""
    train, held = halves(section(replicate))
    print(f"replicate {replicate}: {train.n_obs} spots x {train.n_vars} genes, half the molecules held out", flush=True)
    rows = []
    for init, n_latent in (("svd", 20), ("svd", 10), ("random", 10)):
        rows.append(run_ours(train, held, init=init, n_latent=n_latent))
        print("  {model}, n_latent={n_latent}: {nll:.1f} in {seconds:.1f} s".format(**rows[-1]), flush=True)
    return [*rows, run_scvi(train, held, epochs=epochs, every=every)]


def compare_big(
    n_obs: int, n_vars: int, epochs: int, batch: int = 128
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Simulated: equal batch size, latent and hidden widths; and the profile of our epoch."""
    train, held = halves(simulate(n_obs, n_vars))
    density = train.X.nnz / n_obs / n_vars
    print(f"simulated: {n_obs} spots x {n_vars} genes, {density:.3f} nonzero in the half fitted", flush=True)
    options = {"init": "svd", "n_latent": 10, "batch_size": batch, "patience": 99}
    short = run_ours(train, held, max_epochs=1, **options)
    full = run_ours(train, held, max_epochs=5, **options)
    judged = (full["seconds"] - short["seconds"]) / (full["epochs"] - short["epochs"])
    # scvi judges nothing while it trains here, so neither do we where epochs are compared
    plain = [run_ours(train, held, max_epochs=n, validation_fraction=0, **options)["seconds"] for n in (1, 6)]
    per_epoch = (plain[1] - plain[0]) / 5
    made, dense = step_flops(n_vars, batch, train.X.nnz / n_obs * batch, 10, 128)
    steps = -(-n_obs // batch)
    short["seconds_per_epoch"], short["seconds_per_judged_epoch"] = per_epoch, judged
    short["flops"], short["dense_flops"] = made * steps / per_epoch, dense * steps / per_epoch
    short["gemm_flops"] = gemm_rate()
    theirs = run_scvi(train, held, epochs=epochs, every=1, n_latent=10, n_hidden=128, batch_size=batch)
    theirs["seconds_per_epoch"] = theirs["seconds"] / epochs
    return [short, full, theirs], profile_epoch(train, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicate", type=int, default=11, choices=(1, 2, 11))
    parser.add_argument("--epochs", type=int, default=400, help="epochs of scvi on the real section")
    parser.add_argument("--every", type=int, default=10, help="epochs between two points of scvi's curve")
    parser.add_argument("--big", action=argparse.BooleanOptionalAction, default=True, help="the simulated comparison")
    parser.add_argument("--section", action=argparse.BooleanOptionalAction, default=True, help="the real section")
    parser.add_argument("--big-obs", type=int, default=20_000)
    parser.add_argument("--big-vars", type=int, default=5_000)
    parser.add_argument("--big-epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    importlib.import_module("scvi")
    importlib.import_module("torch._dynamo")  # what the first optimizer of a process would import

    results: dict[str, Any] = {}
    if args.section:
        results["section"] = rows = compare_section(args.replicate, args.epochs, args.every)
        _show(rows)
        theirs, ours = rows[-1], rows[0]
        results["speed_to_scvi_best"] = _speed(ours, theirs["best_nll"], theirs["best_seconds"])
    if args.big:
        rows, profile = compare_big(args.big_obs, args.big_vars, args.big_epochs)
        results["big"], results["profile"] = rows, profile
        _show(rows)
        one, *_, theirs = rows
        results["speed_per_epoch"] = theirs["seconds_per_epoch"] / one["seconds_per_epoch"]
        print(
            f"seconds per epoch: {one['seconds_per_epoch']:.2f} against {theirs['seconds_per_epoch']:.2f}: "
            f"{results['speed_per_epoch']:.1f}x ({one['seconds_per_judged_epoch']:.2f} with held-out molecules judged)"
        )
        results["speed_to_scvi_last"] = _speed(one, theirs["nll"], theirs["seconds"])
        print(
            f"products: {one['flops'] / 1e9:.0f} GFLOP/s, as a dense step {one['dense_flops'] / 1e9:.0f}, "
            f"of {one['gemm_flops'] / 1e9:.0f} for a square matrix product"
        )
        print(table(profile))
    results["environment"] = {**environment("torch", "scvi-tools", "scipy", "numpy"), "threads": args.threads}
    print(write_json("train", results))


def _speed(ours: dict[str, Any], nll: float, seconds: float) -> float | None:
    """How many times sooner ours is below ``nll``, which scvi took ``seconds`` to reach; `None` where it is not."""
    if min(ours["nll"], ours["start_nll"]) >= nll:
        print(f"scvi's {nll:.1f} is not reached")
        return None
    reached = ours["start_seconds"] if ours["start_nll"] < nll else ours["seconds"]
    print(f"below scvi's {nll:.1f} in {reached:.2f} s; scvi in {seconds:.1f} s: {seconds / reached:.0f}x")
    return seconds / reached


def _show(rows: list[dict[str, Any]]) -> None:
    print(table([{k: v for k, v in row.items() if k != "curve"} for row in rows]), flush=True)


if __name__ == "__main__":
    main()
