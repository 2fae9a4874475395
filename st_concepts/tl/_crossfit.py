"""`stc.tl.cross_fit`: concept scores of spots by models that never saw them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.check import count_matrix
from st_concepts._counts.elsewhere import callers_level
from st_concepts._counts.frames import obs_column
from st_concepts._counts.labels import clean_labels, is_boolean
from st_concepts._counts.positions import positions
from st_concepts._counts.rows import in_memory
from st_concepts._counts.sections import sections_of
from st_concepts._results import Result, writes
from st_concepts._slots import KEYS
from st_concepts.concepts import Estimator, read_concepts
from st_concepts.models import SpotVAE
from st_concepts.stats import balanced_tiles
from st_concepts.tl._concepts import concepts
from st_concepts.tl._score_concepts import score_concepts


@writes
def cross_fit(
    adata: AnnData,
    groupby: str,
    *,
    n_folds: int = 5,
    section_key: str | None = None,
    layer: str | None = None,
    missing: Sequence[str] | str | None = None,
    estimator: str | Estimator = "discriminant",
    unlabelled: Literal["learn", "ignore"] = "learn",
    model_options: Mapping[str, Any] | None = None,
    fit_options: Mapping[str, Any] | None = None,
    key_added: str = KEYS.CROSS_FIT,
    copy: bool = False,
) -> Result:
    """Concept score of each spot from a model and concepts that were fitted without it and its neighbourhood.

    The score that ``stc.tl.concepts`` writes was fitted to the very counts it is compared with. For transfer and for
    ranking that is no harm. It matters when the separation of a layer is to be reported: the in-sample AUROC flatters.
    It does not make labels mean something that mean nothing: scores of other folds follow the same real axes of
    expression, so p-values need the test of the concept (``stc.tl.concepts``) with or without it. It costs one fit a
    fold.

    Parameters
    ----------
    adata
        Raw counts, with the layers in ``obs[groupby]`` and positions in ``obsm["spatial"]``.
    groupby
        Column of ``adata.obs`` with the layer of each spot; missing values are unlabelled spots.
    n_folds
        Number of spatial folds: compact tiles of equal size. Not used with several sections.
    section_key
        Column of ``adata.obs`` with sections: each section is a fold. By default as in
        `st_concepts.tl.rank_genes_concepts`, where that column names more than one.
    layer
        Layer with the counts; `None` for ``adata.X``.
    missing, estimator, unlabelled
        As in ``stc.tl.concepts``.
    model_options, fit_options
        Keyword arguments of `SpotVAE` and of its ``fit``.
    key_added
        Where to write.
    copy
        Return a changed copy instead of writing into ``adata``.

    Returns
    -------
    `None`, or the copy. Writes ``obsm["concept_score_crossfit"]``, float32 DataFrame, spots x concepts, each fold in
    the units of its own fit. Use it with ``stc.tl.rank_genes_concepts(adata, score_key="concept_score_crossfit")``.

    Raises
    ------
    KeyError
        A missing column.
    ValueError
        A layer lies in one fold only, no positions, fewer than two folds, no labels.

    Warns
    -----
    UserWarning
        Words of ``groupby`` taken as missing; labels that differ little.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> stc.tl.cross_fit(adata, "layer", n_folds=2, model_options={"n_latent": 5}, fit_options={"max_epochs": 0})
    >>> adata.obsm["concept_score_crossfit"].shape
    (200, 5)
    """
    values = obs_column(adata, groupby)
    folds = _folds(adata, n_folds, section_key)
    labels = _labels(values, missing)
    text = labels.dropna()
    parts: list[pd.DataFrame] = []
    for fold in np.unique(folds):
        inside = folds == fold
        gone = sorted(set(text) - set(labels[~inside].dropna()))
        if gone:
            raise ValueError(
                f"All spots of {gone[0]!r} lie in one fold, so no other spots can tell what it looks like. "
                "Use fewer folds, or leave that label out."
            )
        train, test = (_part(adata, rows, layer) for rows in (~inside, inside))
        model = SpotVAE(train, layer=layer, **dict(model_options or {}))
        model.fit(**{"progress": False, **dict(fit_options or {})})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"adata\.obs\[.*label")  # said above
            how: dict[str, Any] = {"estimator": estimator, "unlabelled": unlabelled, "missing": missing}
            # the labels of a fold are not tested: what is asked for is their scores
            concepts(train, model, groupby, section_key=section_key, n_null=0, **how)
        score_concepts(test, model, concepts=train, section_key=section_key)
        parts.append(test.obsm[KEYS.SCORE].set_axis(read_concepts(train).labels, axis=1))
    frame = pd.concat(parts).reindex(adata.obs_names)
    return Result(obsm={key_added: frame})


def _labels(values: pd.Series, missing: Sequence[str] | str | None) -> pd.Series:
    """Label of each spot as text, with remarks as warnings; yes and no are left as they are."""
    if is_boolean(values):
        return values.astype(object)
    where = f"adata.obs[{values.name!r}]"
    labels = clean_labels(values, missing=missing, where=where)
    for remark in labels.said() if missing is None else labels.remarks:
        warnings.warn(f"{where}: {remark}.", UserWarning, stacklevel=callers_level())
    return pd.Series(labels.values, index=values.index).astype(object)


def _part(adata: AnnData, rows: np.ndarray, layer: str | None) -> AnnData:
    """Some of the spots in memory: a fold is fitted many times over, and takes no more than the whole of it."""
    part = adata[rows]
    lazy = adata.isbacked or not isinstance(adata.obs, pd.DataFrame) or not in_memory(count_matrix(adata, layer))
    return part.to_memory() if lazy else part.copy()


def _folds(adata: AnnData, n_folds: int, section_key: str | None) -> np.ndarray:
    """Fold of each spot, int64 ``(n_obs,)``."""
    found = sections_of(adata, section_key)
    if found.several:
        return found.codes
    if section_key is not None:
        raise ValueError(f"adata.obs[{section_key!r}] names one section only; leave section_key out for spatial folds.")
    if n_folds < 2:
        raise ValueError(f"n_folds={n_folds} must be at least 2.")
    if KEYS.SPATIAL not in adata.obsm:
        raise ValueError("Spatial folds need the position of each spot in adata.obsm['spatial'].")
    return np.asarray(balanced_tiles(positions(adata), n_folds))
