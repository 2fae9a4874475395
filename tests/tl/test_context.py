"""Concepts that see the surroundings of a spot: what their scores are made of, on this section and on others."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import st_concepts as stc
from st_concepts.concepts import read_concepts

OFF = {"groupby": "layer", "n_null": 0}


def walk(xy: np.ndarray, width: float, sections=None) -> np.ndarray:
    """The average over the surroundings as a matrix."""
    graph = stc.stats.spatial_graph(xy, sections).toarray()
    degree = graph.sum(1)
    graph[degree == 0, degree == 0] = 1.0
    degree = np.diag(graph.sum(1))
    return np.linalg.solve((1 + width) * degree - width * graph, degree)


def by_hand(adata, model, made) -> np.ndarray:
    z, c = model.embed(adata).astype(np.float64), made.context
    around = walk(adata.obsm["spatial"], c.width) @ z
    return (z @ made.vectors.T + around @ c.vectors.T - made.center) / made.scale


@pytest.fixture
def wide(trained):
    adata, model = trained
    stc.tl.concepts(adata, model, context=10, **OFF)
    return adata, model


def test_a_score_is_the_spot_and_its_surroundings(wide) -> None:
    adata, model = wide
    made = read_concepts(adata)
    assert made.context.width == adata.uns["concepts"]["params"]["context"] == 10.0
    expected = by_hand(adata, model, made)
    np.testing.assert_allclose(adata.obsm["concept_score"], expected, atol=2e-4)
    np.testing.assert_allclose(expected.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(expected.std(0), 1.0, atol=1e-4)
    alone = model.embed().astype(np.float64) @ made.context.alone.T
    np.testing.assert_allclose(
        adata.obsm["concept_score_alone"], (alone - alone.mean(0)) / alone.std(0), rtol=1e-3, atol=2e-4
    )


def test_vectors_that_see_the_spot_alone_are_those_of_a_narrow_concept(wide) -> None:
    """Made of the labels as given, they do not know of the surroundings."""
    adata, model = wide
    for options in ({"unlabelled": "ignore"}, {"estimator": "mean_difference"}, {"estimator": "logistic"}):
        stc.tl.concepts(adata, model, context=10, **OFF, **options)
        narrow = stc.tl.concepts(adata, model, context=0, copy=True, **OFF, **options)
        np.testing.assert_allclose(adata.obsm["concept_score_alone"], narrow.obsm["concept_score"], atol=1e-4)
        np.testing.assert_allclose(
            adata.varm["concept_gradient_alone"], narrow.varm["concept_gradient"], rtol=1e-3, atol=1e-6
        )


def test_a_narrow_run_removes_what_a_wide_one_left(wide) -> None:
    adata, model = wide
    alone = {("obsm", "concept_score_alone"), ("varm", "concept_gradient_alone")}
    for part, slot in alone:
        assert slot in getattr(adata, part)
    assert "concept_weight" in adata.obsm
    stc.tl.concepts(adata, model, context=0, unlabelled="ignore", **OFF)
    for part, slot in (*alone, ("obsm", "concept_weight")):
        assert slot not in getattr(adata, part)
    assert "context" not in adata.uns["concepts"]


def test_another_section_is_scored_with_its_own_surroundings(wide, other) -> None:
    adata, model = wide
    stc.tl.score_concepts(other, model, concepts=adata)
    np.testing.assert_allclose(other.obsm["concept_score"], by_hand(other, model, read_concepts(adata)), atol=2e-4)
    assert "concept_score_alone" in other.obsm
    assert "concept_weight" not in other.obsm
    # a graph of its own, here the same
    other.obsp["near"] = stc.stats.spatial_graph(other.obsm["spatial"]).tocsr()
    again = stc.tl.score_concepts(other, model, concepts=adata, graph_key="near", copy=True)
    np.testing.assert_allclose(again.obsm["concept_score"], other.obsm["concept_score"], atol=1e-5)


def test_a_section_without_positions_is_scored_by_the_spot_alone(wide, other) -> None:
    adata, model = wide
    stc.tl.score_concepts(other, model, concepts=adata)
    expected = other.obsm["concept_score_alone"].copy()
    del other.obsm["spatial"]
    with pytest.warns(UserWarning, match="see the surroundings of a spot, and there are no positions") as said:
        stc.tl.score_concepts(other, model, concepts=adata)
    assert {w.filename for w in said} == {__file__}
    pd.testing.assert_frame_equal(other.obsm["concept_score"], expected)
    pd.testing.assert_frame_equal(other.obsm["concept_score_alone"], expected)


def test_a_file_keeps_both_parts(wide, other, tmp_path) -> None:
    adata, model = wide
    stc.tl.score_concepts(other, model, concepts=adata)
    for form in ("h5ad", "zarr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(adata, f"write_{form}")(tmp_path / f"a.{form}")
            back = getattr(ad, f"read_{form}")(tmp_path / f"a.{form}")
        mine, theirs = read_concepts(adata), read_concepts(back)
        for name in ("vectors", "alone", "alone_center", "alone_scale", "width"):
            np.testing.assert_array_equal(getattr(theirs.context, name), getattr(mine.context, name))
        again = stc.tl.score_concepts(other, model, concepts=back, copy=True)
        for slot in ("concept_score", "concept_score_alone"):
            pd.testing.assert_frame_equal(again.obsm[slot], other.obsm[slot])


def test_sections_have_no_neighbours_in_common(trained) -> None:
    adata, model = trained
    # two halves, laid onto each other
    half = np.arange(adata.n_obs) % 2
    adata.obs["slide"] = pd.Categorical(np.where(half, "a", "b"))
    stc.tl.concepts(adata, model, context=5, section_key="slide", **OFF)
    made = read_concepts(adata)
    z = model.embed().astype(np.float64)
    around = walk(adata.obsm["spatial"], 5.0, adata.obs["slide"].astype(str)) @ z
    expected = (z @ made.vectors.T + around @ made.context.vectors.T - made.center) / made.scale
    np.testing.assert_allclose(adata.obsm["concept_score"], expected, atol=2e-4)
    assert made.params["section_key"] == "slide"


@pytest.mark.parametrize("context", [-1, np.inf, np.nan, "wide", True])
def test_what_is_no_width_is_said(trained, context) -> None:
    adata, model = trained
    with pytest.raises(ValueError, match="is no width; give 'auto', 0 for the spot alone"):
        stc.tl.concepts(adata, model, context=context, **OFF)


def test_a_width_needs_positions_and_auto_does_without(trained) -> None:
    adata, model = trained
    narrow = stc.tl.concepts(adata, model, context=0, copy=True, **OFF)
    with pytest.raises(KeyError, match="spatial_neighbors"):
        stc.tl.concepts(adata, model, graph_key="near", **OFF)
    at_nan = adata.copy()
    at_nan.obsm["spatial"][3] = np.nan
    with pytest.warns(UserWarning, match="Concepts see each spot alone, since its surroundings are not known") as said:
        stc.tl.concepts(at_nan, model, **OFF)
    assert {w.filename for w in said} == {__file__}
    del adata.obsm["spatial"]
    stc.tl.concepts(adata, model, **OFF)
    for made in (at_nan, adata):
        assert made.uns["concepts"]["params"]["context"] == 0.0
        np.testing.assert_allclose(made.obsm["concept_score"].mean(), 0.0, atol=1e-4)
        assert "concept_score_alone" not in made.obsm
    assert narrow.obsm["concept_score"].shape == adata.obsm["concept_score"].shape
    with pytest.raises((KeyError, ValueError), match="spatial"):
        stc.tl.concepts(adata, model, context=10, **OFF)


def test_seeds_and_vectors_see_the_spot_alone(trained) -> None:
    adata, model = trained
    for options in ({"genes": {"seed": [adata.var_names[0]]}}, {"vectors": np.eye(6)[:2]}):
        stc.tl.concepts(adata, model, context=10, **options)
        assert read_concepts(adata).context is None
        assert "test" not in adata.uns["concepts"]


def test_the_width_that_was_chosen_is_recorded(trained) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, **OFF)
    params = adata.uns["concepts"]["params"]
    area = dict(zip(params["context_widths"], params["context_auroc"], strict=True))
    assert set(area) == {0.0, 3.0, 10.0, 30.0}
    assert area[params["context"]] == max(area.values())
    few = adata.copy()
    keep = few.obs.groupby("layer", observed=True).cumcount() < 10
    few.obs["layer"] = few.obs["layer"].where(keep)
    stc.tl.concepts(few, model, **OFF)
    assert few.uns["concepts"]["params"]["context"] == 10.0
    assert "context_auroc" not in few.uns["concepts"]["params"]
