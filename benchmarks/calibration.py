"""Do p-values of layer markers mean what they say on spatially correlated data?

Simulated sections with concentric layers and three kinds of genes: planted markers, smooth genes that have nothing to
do with the layers (Gaussian random fields of three lengths), and genes without any pattern. For each test: the type I
error at 0.05 per kind of gene, the share of false genes in lists at BH 5%, and the share of planted markers found.

    python -m benchmarks.calibration [--seeds 10] [--json build/benchmarks/calibration.json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control, mannwhitneyu

from st_concepts.stats import (
    association_test,
    distance_null,
    dutilleul_test,
    moran_null,
    permutation_null,
    spatial_graph,
)

LENGTHS = (2.0, 3.5, 6.0)  # of the smooth fields, in spot distances
LAYERS = 5
ALPHA = 0.05
DESIGNS = {"square 260": ("square", 260), "hex 500": ("hex", 500), "irregular 400": ("irregular", 400)}


@dataclass(frozen=True)
class Section:
    """A simulated section: coordinates, layer of each spot, counts, and per gene its kind and marked layer."""

    coords: NDArray[np.float64]
    layer: NDArray[np.intp]
    counts: NDArray[np.int64]
    kind: NDArray[np.str_]
    marks: NDArray[np.intp]


def simulate(
    lattice: str,
    n_obs: int,
    rng: np.random.Generator,
    *,
    n_markers: int = 40,
    n_smooth: int = 100,
    n_iid: int = 1000,
    effect: tuple[float, float] = (0.3, 1.3),
    smooth_sd: float = 0.6,
) -> Section:
    """Simulate a section.

    ``n_markers`` genes per layer with a natural-log fold change drawn from ``effect``, ``n_smooth`` genes per length
    with standard deviation ``smooth_sd`` of the log mean, ``n_iid`` genes; negative binomial, dispersion 0.5.
    """
    coords = _coords(lattice, n_obs, rng)
    distance = cdist(coords, coords)
    centre = coords.mean(axis=0) + rng.normal(size=2) / 2
    radius = np.linalg.norm((coords - centre) / np.ptp(coords, axis=0), axis=1)
    radius += 0.05 * _field(distance, 4.0, 1, rng)[:, 0]
    layer = np.searchsorted(np.quantile(radius, [0.3, 0.42, 0.55, 0.85]), radius)
    log_mean, kind, marks = [], [], []
    for k in range(LAYERS):
        log_mean.append(np.outer(layer == k, rng.uniform(*effect, size=n_markers)))
        kind += ["marker"] * n_markers
        marks += [k] * n_markers
    for length in LENGTHS:
        log_mean.append(smooth_sd * _field(distance, length, n_smooth, rng))
        kind += [f"smooth {length:g}"] * n_smooth
    log_mean.append(np.zeros((n_obs, n_iid)))
    kind += ["iid"] * n_iid
    marks += [-1] * (len(kind) - len(marks))
    eta = np.hstack(log_mean)
    mean = np.exp(eta + rng.normal(0.3, 1.2, eta.shape[1]) + rng.normal(0, 0.3, (n_obs, 1)))
    counts = rng.negative_binomial(2.0, 2.0 / (2.0 + mean))
    return Section(coords, layer, counts, np.array(kind), np.array(marks))


def _coords(lattice: str, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    side = int(np.ceil(np.sqrt(1.3 * n)))
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(side), np.arange(side)))
    if lattice == "square":
        xy = np.c_[x, y] + rng.normal(0, 0.05, (len(x), 2))
    elif lattice == "hex":
        xy = np.c_[x + (y % 2) / 2, y * np.sqrt(3) / 2]
    else:
        xy = rng.uniform(0, side, (len(x), 2))
    middle = (xy.max(axis=0) + xy.min(axis=0)) / 2
    return xy[np.sort(np.argsort(np.linalg.norm((xy - middle) / np.ptp(xy, axis=0), axis=1))[:n])]


def _field(distance: NDArray[np.float64], length: float, m: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``m`` Gaussian random fields with squared exponential covariance and variance 1."""
    covariance = np.exp(-0.5 * (distance / length) ** 2) + 1e-6 * np.eye(len(distance))
    return np.linalg.cholesky(covariance) @ rng.normal(size=(len(distance), m))


def log_normalise(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    total = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.maximum(total, 1) * np.median(total))


def discriminant(
    x: NDArray[np.float64], layer: NDArray[np.intp], rank: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shrunk linear discriminant on principal components: scores ``(n_obs, LAYERS)``, weights ``(n_vars, LAYERS)``."""
    u, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    z = u[:, :rank] * s[:rank]
    cov = z.T @ z / len(z)
    cov = 0.9 * cov + 0.1 * np.trace(cov) / rank * np.eye(rank)
    contrast = np.stack([z[layer == k].mean(axis=0) - z[layer != k].mean(axis=0) for k in range(LAYERS)], axis=1)
    v = np.linalg.solve(cov, contrast)
    return z @ v, vt[:rank].T @ v


def p_values(section: Section) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Two-sided p-values ``(n_vars, LAYERS)`` per (target, test)."""
    x = log_normalise(section.counts)
    label = np.eye(LAYERS)[section.layer]
    graph = spatial_graph(section.coords)
    near = (graph @ label + label) / (graph.sum(axis=1)[:, None] + 1)
    score, weights = discriminant(x, section.layer)
    bands, shuffle = moran_null(section.coords), permutation_null(len(x))
    singleton = moran_null(section.coords, scheme="singleton")
    apart = distance_null(section.coords)
    wide = distance_null(section.coords, scheme="wide")

    def test(target: NDArray[np.float64], null: object, own: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        return association_test(x, target, null, n_null=0, own_weights=own).pval  # type: ignore[arg-type]

    wilcoxon = [
        mannwhitneyu(x[section.layer == k], x[section.layer != k], method="asymptotic").pvalue for k in range(LAYERS)
    ]
    counted = association_test(x, label, bands, n_null=1000).pval_empirical
    return {
        ("label", "Wilcoxon"): np.stack(wilcoxon, axis=1),
        ("label", "permutation"): test(label, shuffle),
        ("label", "Moran"): test(label, bands),
        ("label", "Moran, counted (1000)"): counted,
        ("label", "Moran singleton"): test(label, singleton),
        ("label", "distance"): test(label, apart),
        ("label", "distance, wide"): test(label, wide),
        ("label", "Dutilleul"): dutilleul_test(x, label, section.coords).pval,
        ("neighbourhood", "permutation"): test(near, shuffle),
        ("neighbourhood", "Moran"): test(near, bands),
        ("neighbourhood", "Moran singleton"): test(near, singleton),
        ("neighbourhood", "distance, wide"): test(near, wide),
        ("discriminant", "permutation"): test(score, shuffle),
        ("discriminant", "Moran, own term kept"): test(score, bands),
        ("discriminant", "Moran"): test(score, bands, weights),
        ("discriminant", "distance, wide"): test(score, wide, weights),
    }


def judge(pval: NDArray[np.float64], section: Section) -> dict[str, float]:
    """Figures of one test on one section, averaged over the layers."""
    null = section.marks < 0
    rows = []
    for k in range(LAYERS):
        p = pval[:, k]
        found = false_discovery_control(p) < ALPHA
        row = {
            f"type1 smooth {length:g}": (p[section.kind == f"smooth {length:g}"] < ALPHA).mean() for length in LENGTHS
        }
        row["type1 smooth"] = float(np.mean(list(row.values())))
        row["type1 iid"] = (p[section.kind == "iid"] < ALPHA).mean()
        row["fdr"] = (found & null).sum() / max(found.sum(), 1)
        row["false genes"] = (found & null).sum()
        row["power"] = found[section.marks == k].mean()
        rows.append(row)
    return {key: float(np.mean([r[key] for r in rows])) for key in rows[0]}


def run(
    seeds: int, designs: dict[str, tuple[str, int]], log: Callable[[str], None] = print
) -> list[dict[str, float | str]]:
    """All figures: one record per design, target and test, means and standard errors over ``seeds`` sections."""
    records: list[dict[str, float | str]] = []
    for number, (design, (lattice, n_obs)) in enumerate(designs.items()):
        figures: dict[tuple[str, str], list[dict[str, float]]] = {}
        for seed in range(seeds):
            section = simulate(lattice, n_obs, np.random.default_rng([number, seed]))
            for key, pval in p_values(section).items():
                figures.setdefault(key, []).append(judge(pval, section))
        wilcoxon = np.mean([f["power"] for f in figures[("label", "Wilcoxon")]])
        for (target, test), values in figures.items():
            record: dict[str, float | str] = {"design": design, "target": target, "test": test}
            for key in values[0]:
                column = np.array([v[key] for v in values])
                record[key] = float(column.mean())
                record[f"{key} se"] = float(column.std(ddof=1) / np.sqrt(len(column))) if len(column) > 1 else 0.0
            record["power / Wilcoxon"] = float(record["power"] / wilcoxon) if wilcoxon else 0.0
            records.append(record)
        log(table(records[-len(figures) :]))
    return records


def overall(records: list[dict[str, float | str]]) -> list[dict[str, float | str]]:
    """Means over designs."""
    keys = list(dict.fromkeys((r["target"], r["test"]) for r in records))
    out: list[dict[str, float | str]] = []
    for target, test in keys:
        rows = [r for r in records if (r["target"], r["test"]) == (target, test)]
        mean = {k: float(np.mean([r[k] for r in rows])) for k in rows[0] if not isinstance(rows[0][k], str)}
        out.append({"design": "all", "target": target, "test": test, **mean})
    return out


def table(records: list[dict[str, float | str]]) -> str:
    columns = [*(f"type1 smooth {length:g}" for length in LENGTHS), "type1 smooth", "type1 iid"]
    columns += ["fdr", "false genes", "power", "power / Wilcoxon"]
    lines = ["", f"{records[0]['design']:<15} {'target':<14} {'test':<23}" + "".join(f"{c:>17}" for c in columns)]
    for r in records:
        lines.append(f"{'':<15} {r['target']:<14} {r['test']:<23}" + "".join(f"{r[c]:>17.3f}" for c in columns))
    return "\n".join(lines)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".tmp") as f:
        json.dump(content, f, indent=1)
    os.replace(f.name, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="sections per design")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks/calibration.json"))
    args = parser.parse_args(argv)
    start = time.perf_counter()
    records = run(args.seeds, DESIGNS)
    summary = overall(records)
    print(table(summary))
    write_json(args.json, {"alpha": ALPHA, "seeds": args.seeds, "designs": records, "overall": summary})
    print(f"\n{time.perf_counter() - start:.0f} s; written to {args.json}")


if __name__ == "__main__":
    main()
