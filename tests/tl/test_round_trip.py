"""Everything that concepts of each kind write, on the disk and back, exactly."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import st_concepts as stc
from st_concepts.concepts import read_concepts

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:zarr"),
    pytest.mark.filterwarnings("ignore:Expression does not tell:UserWarning"),  # the mask is of no layer
]

KINDS = {
    "groupby": {"groupby": "layer"},
    "against one": {"groupby": "layer", "groups": ["L2/3"], "reference": ["GCL", "ONL"], "unlabelled": "ignore"},
    "boolean": {"groupby": "inside"},
    "mask": {"mask": {"a/b": [True] * 150 + [False] * 150}},
    "genes": {"genes": {"two": 2}},
    "vectors": {"vectors": np.eye(6)[:3]},
}


def _equal(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if sp.issparse(a):
        return a.dtype == b.dtype and (a != b).nnz == 0
    if isinstance(a, pd.DataFrame):
        return a.index.equals(b.index) and list(a) == list(b) and all(a[c].equals(b[c]) for c in a)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.names:
        return a.dtype.names == b.dtype.names and all(_equal(a[n], b[n]) for n in a.dtype.names)
    if a.dtype.kind == "f":
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return np.array_equal(a, b)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("kind", KINDS)
def test_exact(trained, tmp_path: Path, kind: str, form: str) -> None:
    adata, model = trained
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"}).where(np.arange(300) > 30)
    adata.obs["inside"] = adata.obs["layer"] == "GCL"
    options = dict(KINDS[kind])
    if kind == "genes":
        options = {"genes": {"two": list(adata.var_names[adata.var["kind"] == "marker"][:2])}}
    stc.tl.embed(adata, model)
    stc.tl.concepts(adata, model, **options)
    concept = read_concepts(adata).names[0]
    stc.tl.saliency(adata, model, concepts=[concept])
    stc.tl.saliency_map(adata, model, concept=concept, genes=adata.var_names[:2])
    stc.tl.rank_genes_concepts(adata, null="permutation", n_null=9)
    path = tmp_path / f"result.{form}"
    getattr(adata, f"write_{form}")(path)
    back = getattr(ad, f"read_{form}")(path)
    for slot in ("obsm", "varm", "layers", "uns"):
        mine, theirs = dict(getattr(adata, slot)), dict(getattr(back, slot))
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert _equal(mine[key], theirs[key]), f"{slot}[{key!r}]"
    assert _equal(adata.obs, back.obs)
    # and what was read back serves as well as what was written
    stc.tl.saliency(back, model, concepts=[concept], key_added="again")
    np.testing.assert_allclose(back.varm["again"], adata.varm["concept_saliency"], rtol=1e-5, atol=1e-8)
    stc.tl.score_concepts(back, model, concepts=back, score_key="again")
    assert _equal(back.obsm["again"], adata.obsm["concept_score"])
