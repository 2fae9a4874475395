"""Every labelling is tested, and what expression does not tell is named."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import st_concepts as stc
from st_concepts.concepts import DEFAULT_WIDTH
from st_concepts.stats import concept_test, moran_null, permutation_null

FIELDS = ("statistic", "pval", "null_mean", "null_sd")


@pytest.fixture
def random(trained):
    """Labels of no meaning on a section."""
    adata, model = trained
    rng = np.random.default_rng(0)
    adata.obs["random"] = pd.Categorical(rng.choice(["a", "b"], adata.n_obs))
    return adata, model


def test_labels_are_tested_with_the_surroundings_whatever_width_was_chosen(trained) -> None:
    adata, model = trained
    labels = np.stack([adata.obs["layer"] == c for c in adata.obs["layer"].cat.categories], axis=1).astype(float)
    z = model.embed().astype(np.float64)
    graph = stc.stats.spatial_graph(adata.obsm["spatial"]).toarray()
    degree = np.diag(graph.sum(1))
    around = np.linalg.solve((1 + DEFAULT_WIDTH) * degree - DEFAULT_WIDTH * graph, degree @ z)
    null = moran_null(adata.obsm["spatial"])
    expected = concept_test(np.concatenate([z, 2 * around], axis=1), labels, null, n_null=99, seed=3)
    for context in (0.0, 3.0):
        stc.tl.concepts(adata, model, groupby="layer", context=context, n_null=99, seed=3)
        if context == 0.0:  # then no surroundings are looked for at all
            expected_here = concept_test(z, labels, permutation_null(adata.n_obs), n_null=99, seed=3)
        else:
            expected_here = expected
        test = adata.uns["concepts"]["test"]
        for name in FIELDS:
            np.testing.assert_allclose(test[name], getattr(expected_here, name), rtol=1e-3, atol=1e-6, err_msg=name)
        assert test["joint_pval"] == pytest.approx(expected_here.joint_pval, rel=1e-2, abs=1e-6)
        assert (test["null"], test["n_null"]) == (expected_here.null, 99)


def test_what_expression_does_not_tell_is_named_at_the_users_line(random) -> None:
    adata, model = random
    with pytest.warns(UserWarning, match=r"Expression does not tell 'a' \(p = .*\), 'b' \(p = ") as said:
        stc.tl.concepts(adata, model, groupby="random")
    assert {w.filename for w in said} == {__file__}
    assert (adata.uns["concepts"]["test"]["pval"] >= 0.05).all()
    stc.tl.rank_genes_concepts(adata, null="none")
    assert (adata.varm["rank_genes_concepts_pval"].min() >= 0.05).all()
    assert adata.varm["rank_genes_concepts_pval_programme"].min().min() < 0.01


def test_layers_pass_in_silence(trained) -> None:
    adata, model = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stc.tl.concepts(adata, model, groupby="layer")
    assert (adata.uns["concepts"]["test"]["pval"] < 0.05).all()
    assert adata.uns["concepts"]["test"]["null"] == "moran"


def test_none_is_made_where_none_is_wanted(random) -> None:
    adata, model = random
    stc.tl.concepts(adata, model, groupby="random", n_null=0)
    assert "test" not in adata.uns["concepts"]


def test_without_positions_labels_are_shuffled(trained) -> None:
    adata, model = trained
    del adata.obsm["spatial"]
    stc.tl.concepts(adata, model, groupby="layer", n_null=99)
    assert adata.uns["concepts"]["test"]["null"] == "permutation"


def test_one_seed_one_result(trained) -> None:
    adata, model = trained
    p = [
        stc.tl.concepts(adata, model, groupby="layer", n_null=99, seed=s, copy=True).uns["concepts"]["test"]["null_sd"]
        for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(p[0], p[1])
    assert not np.array_equal(p[0], p[2])
