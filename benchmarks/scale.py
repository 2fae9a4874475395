"""Time and memory from ten thousand to a million spots on the disk: ``python -m benchmarks.scale``.

Each size is simulated to a store in blocks of rows, never in memory as a whole: five layers, each with marker genes and
a depth per spot that varies, on a square lattice. A fresh process then opens the store and runs the whole path: model
with its warm start and one epoch, concepts, integrated gradients and markers with the Moran null. The table shows wall
and processor seconds a stage and the peak resident memory of that process; the last columns compare the time a spot
with that of the size of reference.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks._common import OUT, environment, peak_mib, table, write_json

N_LAYERS = 5
REFERENCE = 100_000
STAGES = ("open", "model", "fit", "concepts", "saliency", "markers")
_ROWS = 50_000
_TABLE = 2**16


def profiles(n_vars: int, rng: np.random.Generator) -> np.ndarray:
    """Share of each gene in the molecules of each layer ``(N_LAYERS, n_vars)``; 2% of the genes mark a layer."""
    base = rng.gamma(0.5, size=n_vars) + 0.02
    own = np.stack([base * np.where(rng.random(n_vars) < 0.02, 4.0, 1.0) for _ in range(N_LAYERS)])
    return own / own.sum(1, keepdims=True)


def simulate(path: Path, n_obs: int, n_vars: int, molecules: float, kind: str, seed: int = 0) -> None:
    """Write ``n_obs`` spots to a store, layers in ``obs`` and positions in ``obsm``, block by block."""
    import h5py
    import zarr
    from anndata.io import sparse_dataset, write_elem

    rng = np.random.default_rng(seed)
    shares = profiles(n_vars, rng)
    # a draw of 16 bits picks a gene: rounding the shares to 1/65536 costs nothing here
    lookup = np.stack(
        [np.searchsorted(np.cumsum(s), (np.arange(_TABLE) + 0.5) / _TABLE).clip(max=n_vars - 1) for s in shares]
    ).astype(np.int32)
    side = int(np.ceil(np.sqrt(n_obs)))
    xy = np.stack(np.divmod(np.arange(n_obs), side), axis=1).astype(np.float64)
    radius = np.hypot(*(xy / side - 0.5).T) + 0.02 * np.sin(0.05 * xy[:, 0])
    layer = np.digitize(radius, np.quantile(radius, np.arange(1, N_LAYERS) / N_LAYERS))
    root = zarr.open_group(str(path), mode="w") if kind == "zarr" else h5py.File(path, "w")
    stored: Any = None
    for first in range(0, n_obs, _ROWS):
        here = layer[first : first + _ROWS]
        number = np.maximum(rng.poisson(molecules * rng.lognormal(-0.045, 0.3, len(here))), 1)
        row = np.repeat(np.arange(len(here), dtype=np.int32), number)
        drawn = rng.integers(0, _TABLE, len(row), dtype=np.uint16)
        gene = lookup[here[row], drawn]
        block = sp.csr_matrix((np.ones(len(row), dtype=np.float32), (row, gene)), shape=(len(here), n_vars))
        if stored is None:
            write_elem(root, "X", block, dataset_kwargs={"chunks": (500_000,)})
            stored = sparse_dataset(root["X"])
        else:
            stored.append(block)
    names = np.array([f"L{i}" for i in range(N_LAYERS)])
    obs = pd.DataFrame({"layer": pd.Categorical.from_codes(layer, names)}, index=np.arange(n_obs).astype(str))
    write_elem(root, "obs", obs)
    write_elem(root, "var", pd.DataFrame(index=[f"gene{i}" for i in range(n_vars)]))
    write_elem(root, "obsm", {"spatial": xy})
    for name in ("layers", "obsp", "uns", "varm", "varp"):
        write_elem(root, name, {})
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    if kind == "h5ad":
        root.close()


def open_store(path: Path, how: str) -> Any:
    """The AnnData with its counts on the disk."""
    import anndata as ad
    import zarr
    from anndata.io import read_elem, sparse_dataset

    if how == "lazy":
        return ad.experimental.read_lazy(str(path))
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path, backed="r")
    group = zarr.open_group(str(path), mode="r")
    return ad.AnnData(sparse_dataset(group["X"]), **{k: read_elem(group[k]) for k in ("obs", "var", "obsm")})


def worker(path: Path, how: str, threads: int, batch_size: int | None) -> dict[str, Any]:
    """Run every stage in this process."""
    import anndata  # noqa: F401  imports are no part of any stage
    import torch
    import zarr  # noqa: F401

    import st_concepts as stc

    torch.set_num_threads(threads)
    stc.SpotVAE, stc.tl.rank_genes_concepts  # noqa: B018  imported when asked for
    state: dict[str, Any] = {}
    steps = {} if batch_size is None else {"batch_size": batch_size}
    stages = {
        "open": lambda: state.update(adata=open_store(path, how)),
        "model": lambda: state.update(model=stc.SpotVAE(state["adata"])),
        "fit": lambda: state["model"].fit(max_epochs=1, progress=False, **steps),
        "concepts": lambda: stc.tl.concepts(state["adata"], state["model"], groupby="layer"),
        "saliency": lambda: stc.tl.saliency(state["adata"], state["model"], method="integrated_gradients"),
        "markers": lambda: stc.tl.rank_genes_concepts(state["adata"], null="moran"),
    }
    result: dict[str, Any] = {"before_mib": peak_mib()}
    for name in STAGES:
        start, cpu = time.perf_counter(), time.process_time()
        stages[name]()
        result[name] = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mib": peak_mib(),
        }
    adata = state["adata"]
    found = adata.varm["rank_genes_concepts_qval"].to_numpy() < 0.05
    return result | {"n_obs": adata.n_obs, "n_vars": adata.n_vars, "genes_listed": int(found.any(1).sum())}


def measure(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run `worker` in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--worker", str(path), "--open", args.open]
    command += ["--threads", str(args.threads)]
    command += [] if args.batch_size is None else ["--batch-size", str(args.batch_size)]
    env = thread_limits(args.threads)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def thread_limits(threads: int) -> dict[str, str]:
    """The environment with the thread pools of every library limited."""
    import os

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict(os.environ) | dict.fromkeys(names, str(threads))


def rows_of(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a size: seconds a stage, total, peak, and time a spot relative to the size of reference."""
    rows = []
    for r in results:
        row: dict[str, Any] = {"spots": r["n_obs"], "simulated": round(r["simulate_seconds"], 1)}
        row |= {name: round(r[name]["seconds"], 2) for name in STAGES}
        row["total_s"] = round(sum(r[name]["seconds"] for name in STAGES), 1)
        row["cpu_s"] = round(sum(r[name]["cpu_seconds"] for name in STAGES), 1)
        row["peak_mib"] = r["markers"]["peak_mib"]
        rows.append(row)
    reference = next((row for row in rows if row["spots"] == REFERENCE), rows[-1])
    for row in rows:
        for key in ("total_s", "cpu_s"):
            row[f"{key} a spot"] = (row[key] / row["spots"]) / (reference[key] / reference["spots"])
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--molecules", type=float, default=118.0, help="mean a spot; 118 give about 100 nonzeros")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="spots a step; by default that of the fit")
    parser.add_argument("--format", choices=("zarr", "h5ad"), default="zarr")
    parser.add_argument("--open", choices=("direct", "lazy"), default="direct", help="lazy: anndata's read_lazy")
    parser.add_argument("--keep", type=Path, help="folder for the stores, which are used again if they are there")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker is not None:
        print(json.dumps(worker(args.worker, args.open, args.threads, args.batch_size)))
        return
    folder = args.keep or Path(tempfile.mkdtemp(prefix="st-concepts-scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        for n_obs in args.sizes:
            path = folder / f"{n_obs}x{args.genes}.{args.format}"
            start = time.perf_counter()
            if not path.exists():
                partial = path.with_name(f"partial-{path.name}")
                simulate(partial, n_obs, args.genes, args.molecules, args.format)
                partial.rename(path)
            seconds = time.perf_counter() - start
            results.append(measure(path, args) | {"simulate_seconds": seconds})
            print(table(rows_of(results)), flush=True)
            if args.keep is None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print()
    print(
        f"{args.genes} genes, {args.format}, opened {args.open}, {args.threads} threads; seconds of wall time a stage."
    )
    print(f"'a spot' is relative to {REFERENCE} spots (or the last size): 1 is linear. peak_mib is of the process.")
    written = write_json(
        "scale",
        {
            "settings": {k: v for k, v in vars(args).items() if k not in ("worker", "keep")},
            "environment": environment("anndata", "zarr", "h5py", "torch", "scipy", "numpy", "st_concepts"),
            "runs": results,
            "rows": rows_of(results),
        },
        out=OUT,
    )
    print(f"Written to {written}")


if __name__ == "__main__":
    main()
