"""What is found for labels that mean nothing? Annotations made up without a look at expression, on real sections.

As many groups as the section has, of the same sizes, in every spot: smooth Gaussian random fields of three lengths
(shares of the side of the tissue) cut into bands, stripes of a random direction in which each group comes twice, and
the annotation of another tissue laid over this one (nearest spot, bounding boxes aligned, turned or mirrored anew for
each seed). Of these all spots keep their label, or 20 or 5 a group. Every list of genes is false, so three figures
should be small: the share of genes with p < 0.05 (5%), the share of lists with any gene at BH 5%, the genes on a list.

The model is fitted once a section; only concepts and rankings are made anew. Wilcoxon is scanpy's.

Shifted or turned copies of a section's own annotation are not among them: where layers run side by side, a copy still
follows their axis, and what is found for it is no error.

    python -m benchmarks.made_up_labels [--sections F.h5ad ... | FOLDER] [--only MOB_rep11] [--seeds 2]
        [--kinds stripes] [--few 20 5] [--each] [--start-only] [--json out.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import st_concepts as stc
from benchmarks._common import OUT, environment, table, write_json
from benchmarks._sections import OURS, Section, add_arguments, figures, fitted, laid_over, p_values, quiet, sections
from benchmarks._sections import wilcoxon as scanpys

LENGTHS = (0.1, 0.2, 0.4)  # of the fields, as shares of the side of a square of the tissue's size
FEW = (20, 5)
FIELDS = tuple(f"field {length:g}" for length in LENGTHS)
KINDS = (*FIELDS, "stripes", "another tissue")


def field(coords: np.ndarray, length: float, rng: np.random.Generator, n_waves: int = 500) -> np.ndarray:
    """Gaussian random field of squared exponential covariance, as a sum of random waves: any number of spots."""
    side = np.sqrt(np.prod(np.ptp(coords, axis=0)))
    waves = rng.normal(size=(2, n_waves)) / (length * side)
    return np.cos(coords @ waves + rng.uniform(0, 2 * np.pi, n_waves)) @ rng.normal(size=n_waves) * np.sqrt(2 / n_waves)


def cut(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Number of the band of each value; bands hold these shares of the values, in this order."""
    place = (np.argsort(np.argsort(values, kind="stable"), kind="stable") + 0.5) / len(values)
    return np.minimum(np.searchsorted(np.cumsum(shares), place), len(shares) - 1)


def stripes(coords: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Parallel bands of a random direction; every group comes twice."""
    angle = rng.uniform(0, np.pi)
    along = coords @ [np.cos(angle), np.sin(angle)]
    return cut(along, np.tile(shares, 2) / 2) % len(shares)


def made_up(section: Section, kind: str, others: Sequence[Section], seed: int) -> np.ndarray | None:
    """Labels of every spot as names; `None` where there is no other tissue."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "another tissue":
        foreign = [s for s in others if s.tissue != section.tissue]
        if not foreign:
            return None
        other = foreign[seed % len(foreign)]
        there = other.adata.obs["label"].to_numpy(dtype=object)
        there = np.array([v if v in other.labels else None for v in there], dtype=object)
        return there[laid_over(section.coords, other.coords, int(rng.integers(8)))]
    counts = section.adata.obs["label"].value_counts()
    shares = rng.permutation([counts[v] for v in section.labels]).astype(float)
    shares /= shares.sum()
    if kind == "stripes":
        codes = stripes(section.coords, shares, rng)
    else:
        codes = cut(field(section.coords, LENGTHS[FIELDS.index(kind)], rng), shares)
    return np.array([f"group {c}" for c in codes], dtype=object)


def kept(labels: np.ndarray, k: int | None, rng: np.random.Generator) -> np.ndarray:
    """``k`` labelled spots a group (all of a smaller one), groups of fewer than three left out."""
    out = np.full(len(labels), None, dtype=object)
    for name in pd.unique(labels[pd.notna(labels)]):
        spots = np.flatnonzero(labels == name)
        if len(spots) >= 3:
            out[spots if k is None else rng.choice(spots, min(k, len(spots)), replace=False)] = name
    return out


def judged(section: Section, model: stc.SpotVAE, given: np.ndarray) -> Iterator[tuple[str, dict[str, float]]]:
    """Figures of each method for one annotation."""
    adata = section.adata
    names = sorted({v for v in given if v is not None})
    adata.obs["given"] = pd.Categorical(given, categories=names)
    with quiet():
        stc.tl.concepts(adata, model, groupby="given")
    for title, options in OURS.items():
        yield title, figures(p_values(adata, names, **options))
    yield "Wilcoxon", figures(scanpys(adata, given, names))


def run(
    section: Section,
    others: Sequence[Section],
    *,
    seeds: int,
    kinds: Sequence[str] = KINDS,
    few: Sequence[int] = FEW,
    start_only: bool = False,
) -> list[dict[str, Any]]:
    """A row for each annotation, number of labels and method."""
    model = fitted(section, start_only=start_only)
    rows = []
    for kind in kinds:
        for seed in range(seeds):
            labels = made_up(section, kind, others, seed)
            if labels is None:
                continue
            for k in (None, *few):
                given = kept(labels, k, np.random.default_rng([seed, k or 0]))
                if len({v for v in given if v is not None}) < 2:
                    continue
                about = {"section": section.name, "kind": kind, "seed": seed, "labels": "all" if k is None else str(k)}
                rows += [about | {"method": title} | values for title, values in judged(section, model, given)]
    return rows


def summary(rows: Sequence[dict[str, Any]], by: Sequence[str] = ("labels", "method")) -> list[dict[str, Any]]:
    """Means over lists, each counting the same; ``any list`` is the share of annotations with a gene on any list."""
    out = []
    for key, group in pd.DataFrame(rows).groupby(list(by), sort=False):
        weights = group["n lists"]
        means = {c: float(np.average(group[c], weights=weights)) for c in ("p < .05", "lists", "genes a list")}
        means["any list"] = float((group["lists"] > 0).mean())
        out.append(dict(zip(by, key, strict=True)) | means | {"n lists": int(weights.sum())})
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=2, help="annotations of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--few", type=int, nargs="*", default=FEW, help="labels a group, beside all")
    parser.add_argument("--start-only", action="store_true", help="look at the warm start, without training")
    parser.add_argument("--each", action="store_true", help="a row for each kind of annotation")
    parser.add_argument("--json", type=Path, default=OUT / "made_up_labels.json")
    args = parser.parse_args(argv)
    chosen, others = sections(args)
    rows: list[dict[str, Any]] = []
    by = ("kind", "labels", "method") if args.each else ("labels", "method")
    for section in chosen:
        start = time.perf_counter()
        few = {"few": args.few, "start_only": args.start_only}
        mine = run(section, others, seeds=args.seeds, kinds=args.kinds, **few)
        rows += mine
        title = f"{section.name}: {section.adata.n_obs} spots x {section.adata.n_vars} genes"
        print(f"\n{title}, {len(section.labels)} groups, {time.perf_counter() - start:.0f} s", flush=True)
        print(table(summary(mine, by)), flush=True)
    if len(chosen) > 1:
        print("\nAll sections\n" + table(summary(rows, by)))
    content = {
        "settings": {k: v if isinstance(v, int | bool) else str(v) for k, v in vars(args).items()},
        "summary": summary(rows, ("section", "kind", "labels", "method")),
        "rows": rows,
        "environment": environment("st-concepts", "scanpy", "numpy", "scipy"),
    }
    print("written to", write_json(args.json.stem, content, out=args.json.parent))


if __name__ == "__main__":
    main()
