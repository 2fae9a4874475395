"""Group attribution behind the linear first layer against a captum loop: ``python -m benchmarks.attribution``.

Every concept is explained on the spots of its own group, with the mean of the other groups as baseline for integrated
gradients. captum sees dense batches of the size that was fastest in a short trial and is timed on a subset of the
spots; its time for all spots is extrapolated linearly, which the table says.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import nn

from benchmarks._common import Measured, environment, measured, table, write_json
from st_concepts.attribution import group_attributions, iter_batches
from st_concepts.models._encoder import Encoder, FirstLayer
from st_concepts.models._spot.module import SpotModule

TARGETS = {
    ("SpotVAE", "integrated_gradients"): 50,
    ("SpotVAE", "gradient_x_input"): 5,
    ("scvi SCVI", "integrated_gradients"): 20,
}


class SpotEncoder:
    """The encoder network of `SpotVAE` with random weights: cost does not depend on what was learned."""

    def __init__(self, n_vars: int, *, n_latent: int, n_layers: int) -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = {"n_latent": n_latent, "n_hidden": 128, "n_layers": n_layers, "n_sections": 1}
        module = SpotModule(n_vars, **sizes, generator=generator).eval().requires_grad_(False)
        # the residual net starts at zero, which would make the encoder linear
        module.rest.out.weight.normal_(0, 0.1, generator=generator)
        self.first_layer = FirstLayer(module.weight.detach(), module.bias.detach(), module.rest)
        self.var_names = pd.RangeIndex(n_vars).astype(str)
        self.n_latent, self.fingerprint, self.device = n_latent, "random", torch.device("cpu")

    def features(self, counts):
        return counts

    def codes(self, obs):
        return None

    def encode(self, features, codes=None):
        return self.first_layer.rest(features @ self.first_layer.weight.T + self.first_layer.bias[0])


class Score(nn.Module):
    """Concept score of dense features, as captum wants it: the plain layers one after the other."""

    def __init__(self, encoder: Encoder, vector: np.ndarray) -> None:
        super().__init__()
        layer = encoder.first_layer
        self.first = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
        self.first.weight.data, self.first.bias.data = layer.weight, layer.bias[0]
        self.rest = layer.rest
        self.vector = torch.as_tensor(vector, dtype=torch.float32)
        self.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x)) @ self.vector


def simulate(n_obs: int, n_vars: int, density: float, seed: int = 0) -> sp.csr_matrix:
    """log1p of sparse counts."""
    rng = np.random.default_rng(seed)
    x = sp.random(n_obs, n_vars, density, format="csr", dtype=np.float32, rng=rng)
    x.data = rng.poisson(2.0, x.nnz).astype(np.float32) + 1
    return x


def scvi_encoder(counts: sp.csr_matrix) -> Encoder:
    """SCVI with its defaults, one epoch on some of the spots."""
    warnings.simplefilter("ignore")
    import scvi
    from anndata import AnnData

    from st_concepts.models._scvi import from_scvi

    adata = AnnData(counts[:1000].copy())
    adata.obs_names, adata.var_names = adata.obs_names.astype(str), adata.var_names.astype(str)
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False, enable_checkpointing=False)
    return from_scvi(model)


def captum_means(
    encoder: Encoder, x: sp.csr_matrix, groups: np.ndarray, vectors: np.ndarray, baselines: np.ndarray, method: str
) -> tuple[np.ndarray, int, Measured]:
    """Group means by captum on the spots of ``x``: values, batch size that was fastest, time for these spots."""
    from captum.attr import InputXGradient, IntegratedGradients

    scores = [Score(encoder, v) for v in vectors]

    def batch_map(k: int, rows: np.ndarray, size: int) -> np.ndarray:
        dense = torch.from_numpy(x[rows].toarray()).requires_grad_(True)
        if method == "gradient_x_input":
            return InputXGradient(scores[k]).attribute(dense).detach().sum(0).numpy()
        start = torch.as_tensor(baselines[k], dtype=torch.float32)[None]
        ig = IntegratedGradients(scores[k])
        return ig.attribute(dense, start, n_steps=50, internal_batch_size=size).detach().sum(0).numpy()

    # rows of the data that a call takes, and rows that run through the encoder together
    def calls(size: int) -> Iterator[tuple[int, np.ndarray]]:
        per_call = size if method == "gradient_x_input" else max(1, size // 50)
        for k in range(len(vectors)):
            members = np.flatnonzero(groups == k)
            for first in range(0, len(members), per_call):
                yield k, members[first : first + per_call]

    def trial(size: int) -> float:
        spots, start = 0, time.perf_counter()
        for k, rows in calls(size):
            batch_map(k, rows, size)
            spots += len(rows)
            if time.perf_counter() - start > 4 and spots >= 2 * len(rows):
                break
        return (time.perf_counter() - start) / spots

    sizes = (128, 512, 2048) if method == "gradient_x_input" else (200, 400, 1600, 6400)
    best = min(sizes, key=trial)
    sums = np.zeros((len(vectors), x.shape[1]))
    with measured() as once:
        for k, rows in calls(best):
            sums[k] += batch_map(k, rows, best)
    return sums / np.bincount(groups, minlength=len(vectors))[:, None], best, once


def ours(encoder: Encoder, x: sp.csr_matrix, groups: np.ndarray, n_groups: int, **kw: Any) -> Callable[[], Any]:
    weights = groups[:, None] == np.arange(n_groups)
    return lambda: group_attributions(encoder, iter_batches(x, weights), **kw)


def compare(
    name: str, encoder: Encoder, x: sp.csr_matrix, method: str, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of the table for one encoder and method."""
    rng = np.random.default_rng(1)
    groups = rng.integers(0, args.concepts, x.shape[0])
    vectors = rng.normal(size=(args.concepts, encoder.n_latent))
    kw: dict[str, Any] = {"method": method}
    others = groups[:, None] != np.arange(args.concepts)
    baselines = (x.T @ others / others.sum(0)).T
    if method == "integrated_gradients":
        kw["baselines"] = baselines
    pairs = {"concepts": vectors, "paired": True}
    rows = []
    for label, more in (
        ("each concept on its group", pairs),
        ("every latent dimension on every group", {}),
    ):
        run = ours(encoder, x, groups, args.concepts, **more, **kw)
        with measured() as once:
            run()
        runs = [once]
        for _ in range(args.repeats - 1):
            with measured() as again:
                run()
            runs.append(again)
        rows.append(
            {
                "encoder": name,
                "method": method,
                "what": label,
                "seconds": min(r.seconds for r in runs),
                "cpu_seconds": min(r.cpu_seconds for r in runs),
                "peak_mib": max((r.peak_mib for r in runs if r.peak_mib is not None), default=None),
            }
        )
    # captum on the first spots only; values are compared on those
    few = min(x.shape[0], args.subset if method == "integrated_gradients" else args.subset * 16)
    theirs, size, once = captum_means(encoder, x[:few], groups[:few], vectors, baselines, method)
    same = ours(encoder, x[:few], groups[:few], args.concepts, **pairs, **kw)()
    share = few / x.shape[0]
    speedup = once.seconds / share / rows[0]["seconds"]
    target = TARGETS.get((name, method))
    rows[0] |= {
        "captum_seconds": once.seconds / share,
        "captum_cpu_seconds": once.cpu_seconds / share,
        "captum_spots_timed": few,
        "captum_batch": size,
        "times_faster": speedup,
        "times_less_cpu": once.cpu_seconds / share / rows[0]["cpu_seconds"],
        "target": target,
        "met": None if target is None else bool(speedup >= target),
        "relative_difference": float(np.abs(same.values[:, 0] - theirs).max() / np.abs(theirs).max()),
    }
    print(table(rows), flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spots", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--concepts", type=int, default=5)
    parser.add_argument("--subset", type=int, default=250, help="spots on which captum's path method is timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-scvi", action="store_true")
    parser.add_argument("--skip-deep", action="store_true", help="no residual net of two hidden layers")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    counts = simulate(args.spots, args.genes, args.density)
    x = counts.log1p()
    encoders: dict[str, Encoder] = {"SpotVAE": SpotEncoder(args.genes, n_latent=10, n_layers=1)}
    if not args.skip_deep:
        encoders["SpotVAE, 2 hidden layers"] = SpotEncoder(args.genes, n_latent=10, n_layers=2)
    if not args.skip_scvi:
        encoders["scvi SCVI"] = scvi_encoder(counts)
    rows = [
        row
        for name, encoder in encoders.items()
        for method in ("integrated_gradients", "gradient_x_input")
        for row in compare(name, encoder, x, method, args)
    ]
    print()
    print(f"{args.spots} spots x {args.genes} genes, {args.density:.0%} nonzero, {args.concepts} concepts, IG 50 steps")
    print(table(rows))
    print("captum's seconds are extrapolated from captum_spots_timed spots; peak_mib is above the data in memory.")
    print("relative_difference is in float32, where a unit on the edge may open in one and not in the other.")
    path = write_json(
        "attribution",
        {
            "settings": vars(args) | {"n_steps": 50},
            "captum_extrapolated": True,
            "environment": environment("torch", "captum", "scipy", "scvi-tools", "st_concepts"),
            "rows": rows,
        },
    )
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
