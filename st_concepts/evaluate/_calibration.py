"""Whether p-values keep their level on a section's own geometry and layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from st_concepts._counts.positions import positions
from st_concepts._counts.sections import sections_of
from st_concepts._slots import KEYS
from st_concepts.concepts import ConceptView, membership, read_concepts
from st_concepts.stats import NullModel, association_test, find_null, null_model

_WAVES = 64  # random Fourier features a field


def calibration(
    adata: AnnData,
    *,
    nulls: Sequence[str | type[NullModel]] = ("moran", "permutation", "none"),
    target: Literal["label", "score"] = "label",
    lengths: Sequence[float] = (2.0, 3.5, 6.0),
    n_genes: int = 300,
    smooth_share: float = 0.5,
    alpha: float = 0.05,
    section_key: str | None = None,
    concepts_key: str = KEYS.CONCEPTS,
    seed: int = 0,
) -> pd.DataFrame:
    """Type I error of the marker test for made-up genes that have nothing to do with the layers.

    Genes are Gaussian random fields of several lengths plus noise, and pure noise, on the spots of ``adata``; the
    targets are its own concepts. A test that holds its level calls a share ``alpha`` of them.

    Parameters
    ----------
    adata
        With concepts and ``obsm["spatial"]``; only read.
    nulls
        Null models to try, as in ``stc.tl.rank_genes_concepts``.
    target
        ``"label"``: inside or outside; ``"score"``: the concept score, of what concepts see in the spot alone, as when
        genes are tested.
    lengths
        Correlation lengths of the fields, in median distances between neighbouring spots.
    n_genes
        Made-up genes a length.
    smooth_share
        Share of the field in the variance of a gene; the rest is noise.
    alpha
        Nominal level.
    section_key
        Column of ``adata.obs`` with sections; by default as in `st_concepts.tl.rank_genes_concepts`.
    concepts_key
        Entry of ``uns`` with the concepts.
    seed
        Seed of the fields.

    Returns
    -------
    DataFrame, one row per null, length (0 is pure noise) and concept: ``null``, ``length``, ``concept``, ``type_i``
    (share of genes with p < ``alpha``, two-sided), ``error`` (its binomial standard error at ``alpha``) and ``listed``
    (share of genes in the list at BH ``alpha``: all of them are false).

    Raises
    ------
    KeyError
        No concepts, no positions, a missing column.
    ValueError
        Options out of range.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> list(stc.evaluate.calibration(adata, n_genes=20, lengths=[3.0]).columns)
    ['null', 'length', 'concept', 'type_i', 'error', 'listed']
    """
    if n_genes < 1 or not 0.0 <= smooth_share <= 1.0 or not 0.0 < alpha < 1.0 or any(v <= 0 for v in lengths):
        raise ValueError("n_genes must be at least 1, lengths positive, smooth_share in [0, 1] and alpha in (0, 1).")
    if target not in ("label", "score"):
        raise ValueError(f"target={target!r} is unknown; use 'label' or 'score'.")
    if KEYS.SPATIAL not in adata.obsm:
        raise KeyError("adata.obsm['spatial'] is missing: the made-up genes need the position of each spot.")
    sections, coords = sections_of(adata, section_key, concepts_key=concepts_key).codes, positions(adata)
    concepts = read_concepts(adata, concepts_key)
    if target == "label":
        members = membership(adata, concepts).members
        y = np.where(members < 0, np.nan, members).astype(np.float64)
    else:
        y = ConceptView.read(adata, concepts_key, None, None).alone
    models = {find_null(null).name: null_model(null, adata.n_obs, coords=coords, sections=sections) for null in nulls}
    rows = []
    for length, genes in _made_up(coords, sections, [0.0, *lengths], n_genes, smooth_share, seed):
        for name, null in models.items():
            result = association_test(genes, y, null, n_null=0)
            for j, concept in enumerate(concepts.names):
                rows.append(
                    {
                        "null": name,
                        "length": float(length),
                        "concept": concept,
                        "type_i": float((result.pval[:, j] < alpha).mean()),
                        "error": float(np.sqrt(alpha * (1 - alpha) / n_genes)),
                        "listed": float((result.qval[:, j] < alpha).mean()),
                    }
                )
    return pd.DataFrame(rows)


def _made_up(
    coords: np.ndarray, sections: np.ndarray, lengths: Sequence[float], n_genes: int, share: float, seed: int
) -> Iterator[tuple[float, np.ndarray]]:
    """Length and genes ``(n_obs, n_genes)``; fields have a Gaussian covariance, sections are independent."""
    rng = np.random.default_rng(seed)
    distance, _ = cKDTree(coords).query(coords, k=min(2, len(coords)))
    spacing = float(np.median(distance[:, -1])) or 1.0
    for length in lengths:
        noise = rng.standard_normal((len(coords), n_genes))
        if length == 0:
            yield length, noise
            continue
        field = np.empty_like(noise)
        for code in np.unique(sections):
            rows = sections == code
            at = coords[rows] / (spacing * length)
            for g in range(n_genes):
                waves, phase = rng.standard_normal((_WAVES, 2)), rng.uniform(0.0, 2 * np.pi, _WAVES)
                field[rows, g] = np.cos(at @ waves.T + phase).sum(1) * np.sqrt(2.0 / _WAVES)
        yield length, np.sqrt(share) * field + np.sqrt(1.0 - share) * noise
