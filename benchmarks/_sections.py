"""Annotated sections for benchmarks: those at hand, or h5ad files of one's own, all in the same form."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from scipy.spatial import cKDTree

import st_concepts as stc
from st_concepts._counts.features import log_normalize
from st_concepts._slots import KEYS
from st_concepts.stats import fdr_bh

MIN_SPOTS = 20  # genes seen in fewer are left out
MIN_LABELLED = 3  # labels with fewer spots count as unlabelled
BULBS = (1, 2, 11)
ALPHA = 0.05

# by name of the method, options of rank_genes_concepts
OURS = {"ours, default": {}, "ours, label": {"target": "label"}, "ours, score": {"target": "score"}}


@dataclass(frozen=True)
class Section:
    """Counts (CSR, ``X``), labels (``obs["label"]``, `None` where unknown), ``obsm["spatial"]``; read when needed.

    Sections whose names begin with the same word, up to an underscore, are of one tissue.
    """

    name: str
    load: Callable[[], AnnData]

    @cached_property
    def adata(self) -> AnnData:
        return self.load()

    @property
    def tissue(self) -> str:
        return self.name.split("_")[0]

    @property
    def labels(self) -> list[str]:
        return list(self.adata.uns["labels"])

    @property
    def coords(self) -> np.ndarray:
        return np.asarray(self.adata.obsm[KEYS.SPATIAL], dtype=np.float64)


def read(path: Path) -> AnnData:
    try:
        return stc.io.read(path)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


def prepare(name: str, adata: AnnData, label: str, layer: str | None = None) -> AnnData:
    """Counts as CSR in ``X``, labels as strings in ``obs["label"]`` (`None` where unknown), positions."""
    if label not in adata.obs:
        raise SystemExit(f"{name} has no column {label!r} in obs; it has: {', '.join(adata.obs)}. Pass --label.")
    if layer is not None and layer not in adata.layers:
        raise SystemExit(f"{name} has no layer {layer!r}; it has: {', '.join(adata.layers) or 'none'}.")
    if KEYS.SPATIAL not in adata.obsm:
        raise SystemExit(f"{name} has no obsm['spatial'].")
    counts = sp.csr_matrix(adata.X if layer is None else adata.layers[layer]).astype(np.float32)
    if counts.data.size and (counts.data.min() < 0 or (counts.data % 1).any()):
        raise SystemExit(f"{name}: raw counts are needed, these are not whole numbers; name the right --layer.")
    column = adata.obs[label]
    out = AnnData(
        counts,
        obs=pd.DataFrame(index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names),
        obsm={KEYS.SPATIAL: np.asarray(adata.obsm[KEYS.SPATIAL])[:, :2].astype(np.float64)},
    )
    out.obs["label"] = column.astype(str).astype(object).where(column.notna(), None)
    out.var_names_make_unique()
    order = list(column.cat.categories.astype(str)) if isinstance(column.dtype, pd.CategoricalDtype) else []
    n = out.obs["label"].value_counts()
    out.uns["labels"] = [v for v in (order or sorted(n.index)) if n.get(v, 0) >= MIN_LABELLED]
    return out


def seen(adata: AnnData) -> AnnData:
    """Genes that enough spots have."""
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= MIN_SPOTS].copy()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sections", type=Path, nargs="+", help="h5ad files or folders of them; else all at hand")
    parser.add_argument("--only", nargs="+", help="names of sections, such as MOB_rep11 or a file without .h5ad")
    parser.add_argument("--label", default="layer", help="column of obs with the labels")
    parser.add_argument("--layer", help="layer with the raw counts, X by default")


def sections(args: argparse.Namespace) -> tuple[list[Section], list[Section]]:
    """The sections asked for, and all that there are."""
    found = {
        name: Section(name, lambda name=name, load=load: seen(prepare(name, load(), args.label, args.layer)))
        for name, load in _at_hand(args.sections)
    }
    wanted = list(found) if args.only is None else args.only
    if unknown := [name for name in wanted if name not in found]:
        raise SystemExit(f"No section {unknown[0]!r}; there are: {', '.join(found)}.")
    return [found[name] for name in wanted], list(found.values())


def _at_hand(paths: Sequence[Path] | None) -> Iterator[tuple[str, Callable[[], AnnData]]]:
    """Names of sections, and how to load each."""
    folder = Path(os.environ.get("ST_CONCEPTS_DATA", "")) / "sections"
    bulbs = [r for r in BULBS if stc.datasets.bulb_at_hand(r)] if paths is None else []
    for r in bulbs:
        yield f"MOB_rep{r}", lambda r=r: stc.datasets.mouse_olfactory_bulb(r)
    if paths is None:
        paths = [folder] if folder.is_dir() else []
    for path in paths:
        files = sorted(path.glob("*.h5ad")) if path.is_dir() and path.suffix != ".zarr" else [path]
        if not files:
            raise SystemExit(f"{path} holds no h5ad file.")
        for file in files:
            yield file.stem, lambda file=file: read(file)
    if not bulbs and not paths:
        options = {"n_obs": 600, "n_vars": 1500, "unlabelled": 0.05}
        yield "simulated", lambda: stc.datasets.simulated_bulb(**options)


def laid_over(coords: np.ndarray, other: np.ndarray, turn: int) -> np.ndarray:
    """The spot of another section that lies nearest to each of these, bounding boxes aligned: ``(n_obs,)``.

    ``turn`` from 0 to 7: quarter turns of the other, then of its mirror image.
    """

    def boxed(xy: np.ndarray) -> np.ndarray:
        low, high = xy.min(axis=0), xy.max(axis=0)
        return (xy - low) / np.where(high > low, high - low, 1.0)

    xy = boxed(other) - 0.5
    if turn % 8 >= 4:
        xy = xy * [-1, 1]
    for _ in range(turn % 4):
        xy = xy @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    return cKDTree(xy + 0.5).query(boxed(coords))[1]


def fitted(section: Section, *, start_only: bool = False, seed: int = 0) -> stc.SpotVAE:
    with quiet():
        return stc.SpotVAE(section.adata, seed=seed).fit(progress=False, **({"max_epochs": 0} if start_only else {}))


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def p_values(adata: AnnData, labels: Sequence[str], **options: object) -> np.ndarray:
    """Two-sided p of our test, ``(n_vars, n_labels)``, by what `tl.rank_genes_concepts` writes for users."""
    with quiet():
        stc.tl.rank_genes_concepts(adata, n_null=0, **options)
    made = adata.uns[KEYS.RANK]
    return np.stack([pd.Series(made["pvals"][v], index=made["names"][v])[adata.var_names] for v in labels], axis=1)


def wilcoxon(adata: AnnData, given: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Two-sided p of scanpy's rank-sum test (ties allowed for), each label against the other labelled spots."""
    known = np.array([v is not None for v in given])
    totals = np.asarray(adata.X.sum(1)).ravel()
    x = log_normalize(adata.X, float(np.median(totals[totals > 0])))[known]
    sub = AnnData(x, var=pd.DataFrame(index=adata.var_names))
    sub.obs["given"] = pd.Categorical(given[known], categories=list(labels))
    sub.uns["log1p"] = {"base": None}
    with quiet():
        sc.tl.rank_genes_groups(sub, "given", method="wilcoxon", tie_correct=True)
    made = sub.uns["rank_genes_groups"]
    p = np.stack([pd.Series(made["pvals"][v], index=made["names"][v])[adata.var_names] for v in labels], axis=1)
    return np.nan_to_num(p, nan=1.0)  # genes that no labelled spot has


def figures(p: np.ndarray) -> dict[str, float]:
    """Share of p below 0.05, share of columns with a gene at BH 5%, and how many these are on average."""
    found = (fdr_bh(p, axis=0) < ALPHA).sum(axis=0)
    return {
        "p < .05": float((p < ALPHA).mean()),
        "lists": float((found > 0).mean()),
        "genes a list": float(found.mean()),
        "n lists": float(len(found)),
    }
