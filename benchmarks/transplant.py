"""Are genes called that have nothing to do with a section's layers? Real genes of elsewhere, and genes without pattern.

The concepts are those of the section's true labels. Tested are, beside its own genes and known to no model,

- the genes of another tissue laid over the spots of this one (nearest spot, bounding boxes aligned, turned or mirrored
  anew for each seed): real patterns, real noise, and no connection with the labels,
- genes without pattern at the section's real depths: Poisson counts of a gene's share of all molecules times the
  molecules of a spot.

They stand in a matrix of their own, so that they are normalised by their own totals and leave those of the section
alone; scores, labels and their choice come from the section. Reported is the share with p < 0.05, which should be 5%,
the share of lists with any gene at BH 5%, and the genes on a list; Wilcoxon is scanpy's. A tissue of fewer spots comes
in steps of equal neighbours: another tissue of many is the better test.

    python -m benchmarks.transplant [--sections F.h5ad ... | FOLDER] [--only MOB_rep11] [--seeds 2] [--start-only]
        [--json out.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import st_concepts as stc
from benchmarks._common import OUT, environment, table, write_json
from benchmarks._sections import (
    OURS,
    Section,
    add_arguments,
    figures,
    fitted,
    laid_over,
    p_values,
    quiet,
    sections,
    seen,
)
from benchmarks._sections import wilcoxon as scanpys
from benchmarks.made_up_labels import summary
from st_concepts._slots import KEYS

KINDS = ("another tissue", "no pattern")


def without_pattern(counts: sp.csr_matrix, rng: np.random.Generator) -> sp.csr_matrix:
    """Poisson counts at the section's mean rates and depths."""
    depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    rate = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() / depth.sum()
    rows = [sp.csr_matrix(rng.poisson(np.outer(some, rate)).astype(np.float32)) for some in np.array_split(depth, 20)]
    return sp.vstack(rows, format="csr")


def transplanted(section: Section, kind: str, others: Sequence[Section], seed: int) -> tuple[str, sp.csr_matrix] | None:
    """Where the genes are from, and their counts in the spots of the section; `None` where there is no other tissue."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "no pattern":
        return "", without_pattern(section.adata.X, rng)
    foreign = [s for s in others if s.tissue != section.tissue]
    if not foreign:
        return None
    other = foreign[seed % len(foreign)]
    return other.name, other.adata.X[laid_over(section.coords, other.coords, int(rng.integers(8)))]


def guest(section: Section, counts: sp.csr_matrix) -> AnnData:
    """An AnnData of other genes in the section's spots, with the section's concepts."""
    own = section.adata
    out = AnnData(
        counts,
        obs=own.obs.copy(),
        var=pd.DataFrame(index=[f"guest {i}" for i in range(counts.shape[1])]),
        obsm={key: value.copy() for key, value in own.obsm.items()},
        uns={KEYS.CONCEPTS: own.uns[KEYS.CONCEPTS]},
    )
    return seen(out)


def run(
    section: Section,
    others: Sequence[Section],
    *,
    seeds: int,
    kinds: Sequence[str] = KINDS,
    start_only: bool = False,
) -> list[dict[str, Any]]:
    """A row for each set of genes and method."""
    names = section.labels
    given = np.array([v if v in names else None for v in section.adata.obs["label"]], dtype=object)
    section.adata.obs["given"] = pd.Categorical(given, categories=names)
    with quiet():
        stc.tl.concepts(section.adata, fitted(section, start_only=start_only), groupby="given")
    rows = []
    for kind in kinds:
        for seed in range(seeds):
            made = transplanted(section, kind, others, seed)
            if made is None:
                continue
            source, adata = made[0], guest(section, made[1])
            about = {"section": section.name, "genes": kind, "from": source, "seed": seed, "n genes": adata.n_vars}
            tested = [(title, p_values(adata, names, **options)) for title, options in OURS.items()]
            for title, p in [*tested, ("Wilcoxon", scanpys(adata, given, names))]:
                rows.append(about | {"method": title} | figures(p))
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, default=2, help="sets of genes of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--start-only", action="store_true", help="look at the warm start, without training")
    parser.add_argument("--json", type=Path, default=OUT / "transplant.json")
    args = parser.parse_args(argv)
    chosen, others = sections(args)
    rows: list[dict[str, Any]] = []
    for section in chosen:
        start = time.perf_counter()
        mine = run(section, others, seeds=args.seeds, kinds=args.kinds, start_only=args.start_only)
        rows += mine
        title = f"{section.name}: {section.adata.n_obs} spots, {len(section.labels)} labels"
        print(
            f"\n{title}, {time.perf_counter() - start:.0f} s\n" + table(summary(mine, ("genes", "method"))), flush=True
        )
    if len(chosen) > 1:
        print("\nAll sections\n" + table(summary(rows, ("genes", "method"))))
    content = {
        "settings": {k: v if isinstance(v, int | bool) else str(v) for k, v in vars(args).items()},
        "summary": summary(rows, ("section", "genes", "method")),
        "rows": rows,
        "environment": environment("st-concepts", "scanpy", "numpy", "scipy"),
    }
    print("written to", write_json(args.json.stem, content, out=args.json.parent))


if __name__ == "__main__":
    main()
