"""What concepts are made of and how well they hold, one row each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import as_frame, column
from st_concepts._slots import KEYS, concept_slot
from st_concepts.concepts import read_concepts


def concepts(adata: AnnData, *, key: str = KEYS.CONCEPTS) -> pd.DataFrame:
    """What is known of each concept: how many spots it rests on, how well it is told, whether it is one at all.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.concepts`; only read.
    key
        Entry of ``uns`` that holds the concepts.

    Returns
    -------
    DataFrame, one row a concept, with ``name``, ``n_labelled`` (spots inside, 0 where nothing was labelled), ``auroc``
    (of labelled spots inside against outside, by discriminants that did not see their labels), ``context`` (width of
    the surroundings that were looked at, 0 for the spot alone) and ``label_trust`` (how much the labels as given count,
    0 to 1); NaN where that is not known. After a test of the concepts also ``statistic``, ``pval`` (of the concept) and
    ``joint_pval`` (of all together, the same in each row), see `st_concepts.tl.concepts`.

    Raises
    ------
    KeyError
        There are no concepts under ``key``.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, n_markers=5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.get.concepts(adata)["name"].tolist()
    ['ONL', 'GL', 'OPL', 'MCL', 'GCL']
    """
    made = read_concepts(adata, key)
    n = len(made.names)

    def filled(values: Any) -> np.ndarray:
        given = np.full(1, np.nan) if values is None else np.atleast_1d(np.asarray(values, dtype=np.float64))
        return np.resize(given, n) if len(given) in (1, n) else np.full(n, np.nan)

    table = pd.DataFrame({"name": made.names})
    table["n_labelled"] = made.n_labelled if len(made.n_labelled) == n else np.zeros(n, dtype=np.int64)
    for name, values in (
        ("auroc", made.params.get("auroc")),
        ("context", 0.0 if made.context is None else made.context.width),
        ("label_trust", made.params.get("label_trust")),
    ):
        table[name] = filled(values)
    if made.test:
        for name in ("statistic", "pval", "joint_pval"):
            table[name] = filled(made.test.get(name))
    return table


def concept_labels(adata: AnnData, *, key: str = KEYS.CONCEPTS) -> pd.DataFrame:
    """Predicted layer of every spot.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.predict_labels`; only read.
    key
        Key of the set of concepts.

    Returns
    -------
    DataFrame, one row a spot, with ``spot``, ``label`` (categorical, true names) and ``probability`` (float32, of that
    label; NaN where there is none, and for ``"none of these"``).

    Raises
    ------
    KeyError
        There are no predicted labels.

    Examples
    --------
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, unlabelled=0.5, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.predict_labels(adata, model)
    >>> stc.get.concept_labels(adata).columns.tolist()
    ['spot', 'label', 'probability']
    """
    where, of = concept_slot(KEYS.LABEL, key), concept_slot(KEYS.PROBABILITY, key)
    if where not in adata.obs or of not in adata.obsm:
        raise KeyError(f"adata.obs[{where!r}] is missing: run stc.tl.predict_labels(adata, model) first.")
    labels = column(adata.obs, where).reset_index(drop=True)
    values = as_frame(adata.obsm[of]).to_numpy(dtype=np.float32)
    codes = labels.cat.codes.to_numpy()
    given = (codes >= 0) & (codes < values.shape[1])
    probability = np.where(given, values[np.arange(len(codes)), np.clip(codes, 0, values.shape[1] - 1)], np.nan)
    table = pd.DataFrame({"spot": adata.obs_names.astype(str), "label": labels})
    return table.assign(probability=probability.astype(np.float32))
