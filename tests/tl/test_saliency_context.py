"""Concepts that see the surroundings: against dense averages and gradients of the whole score."""

from __future__ import annotations

import copy
import functools
import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import st_concepts as stc
from st_concepts._slots import KEYS
from st_concepts.attribution import Batch, Explained, Options, group_attributions, spot_attributions
from st_concepts.concepts import read_concepts
from st_concepts.stats import spatial_graph

WIDTH = 3.0
N, G = 120, 60


@functools.cache
def _fitted():
    adata = stc.datasets.simulated_bulb(n_obs=N, n_vars=G, n_markers=6, n_smooth=5, effect=1.5, density=0.5, seed=0)
    model = stc.SpotVAE(adata, n_latent=4, n_hidden=8, seed=0).fit(
        max_epochs=3, validation_fraction=0.0, progress=False
    )
    stc.tl.concepts(adata, model, groupby="layer", context=WIDTH)
    return adata, model


@pytest.fixture
def seen():
    adata, model = _fitted()
    return adata.copy(), model


def dense_average(adata, sections=None) -> np.ndarray:
    """The same average by a dense inverse."""
    sections = np.zeros(adata.n_obs, dtype=int) if sections is None else sections
    graph = spatial_graph(np.asarray(adata.obsm["spatial"], dtype=float), sections).toarray()
    degree = np.diag(graph.sum(1))
    return np.linalg.inv((1 + WIDTH) * degree - WIDTH * graph) @ degree


class Whole:
    """The score of every spot as one function of all features, in float64."""

    def __init__(self, adata, model, name: str) -> None:
        self.made = read_concepts(adata)
        self.j = self.made.index(name)
        counts = adata.X.toarray().astype(np.float64)
        self.features = np.log1p(counts / counts.sum(1, keepdims=True) * model.target_sum)
        first = model.first_layer
        self.weight, self.bias = first.weight.detach().double(), first.bias.detach().double()[-1]
        self.rest = copy.deepcopy(first.rest).double()
        self.average = torch.as_tensor(dense_average(adata))
        self.inside = torch.as_tensor((adata.obs["layer"] == name).to_numpy())
        self.own, self.further = (
            torch.as_tensor(d[self.j]) for d in (self.made.directions, self.made.directions_around)
        )

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        z = self.rest(x @ self.weight.T + self.bias)
        shift = self.made.center[self.j] / self.made.scale[self.j]
        return z @ self.own + self.average @ (z @ self.further) - shift

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Of the mean score of the spots inside, by the features of every spot."""
        at = torch.as_tensor(x).requires_grad_()
        (found,) = torch.autograd.grad(self.scores(at)[self.inside].mean(), at)
        return found.numpy()

    def attribution(self, method: str, start: np.ndarray) -> np.ndarray:
        x = self.features
        if method == "gradient":
            return self.gradient(x).sum(0)
        if method == "gradient_x_input":
            return (x * self.gradient(x)).sum(0)
        n_steps = 200
        path = sum(self.gradient(start + (x - start) * (s + 0.5) / n_steps) for s in range(n_steps)) / n_steps
        return ((x - start) * path).sum(0)

    def start(self) -> np.ndarray:
        return self.features[~self.inside.numpy()].mean(0)


def test_the_whole_score_is_the_stored_one(seen) -> None:
    adata, model = seen
    whole = Whole(adata, model, "GCL")
    score = whole.scores(torch.as_tensor(whole.features)).detach().numpy()
    np.testing.assert_allclose(score, adata.obsm["concept_score"]["GCL"], atol=1e-4)


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "integrated_gradients"])
def test_saliency_is_that_of_the_whole_score(seen, method) -> None:
    adata, model = seen
    stc.tl.saliency(adata, model, method=method)
    for name in ("ONL", "GCL"):
        whole = Whole(adata, model, name)
        expected = whole.attribution(method, whole.start())
        found = adata.varm["concept_saliency"][name].to_numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        # without what is seen around, the rest is what is read in the spots of the concept
        whole.further = torch.zeros_like(whole.further)
        own = found - adata.varm["concept_saliency_context"][name].to_numpy()
        expected = whole.attribution(method, whole.start())
        np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-4 * np.abs(found).max())


def test_a_rule_that_is_not_linear_is_that_of_single_spots(seen) -> None:
    adata, model = seen
    stc.tl.saliency(adata, model, method="guided_backprop")
    whole = Whole(adata, model, "MCL")
    inside, features = whole.inside.numpy(), whole.features.astype(np.float32)
    own, further = (
        np.concatenate(
            [spot_attributions(model, features[[i]], d.numpy(), method="guided_backprop").values for i in range(N)]
        )
        for d in (whole.own, whole.further)
    )
    expected = (whole.average.numpy() @ further)[inside].mean(0)
    np.testing.assert_allclose(adata.varm["concept_saliency_context"]["MCL"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        adata.varm["concept_saliency"]["MCL"], expected + own[inside].mean(0), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("baseline", ["others", "mean", "zero", "GL", "profile"])
def test_both_parts_sum_to_the_score_difference(seen, baseline) -> None:
    adata, model = seen
    whole = Whole(adata, model, "GCL")
    x, inside, layer = whole.features, whole.inside.numpy(), adata.obs["layer"].astype(str).to_numpy()
    start = {
        "others": whole.start(),
        "mean": x.mean(0),
        "zero": np.zeros(G),
        "GL": x[layer == "GL"].mean(0),
        "profile": np.linspace(0, 1, G),
    }[baseline]
    stc.tl.saliency(
        adata,
        model,
        concepts="GCL",
        baseline=start if baseline == "profile" else baseline,
        options=Options(n_steps=100),
    )
    scores = whole.scores(torch.as_tensor(x)).detach().numpy()
    from_start = whole.scores(torch.as_tensor(np.tile(start, (N, 1)))).detach().numpy()
    np.testing.assert_allclose(from_start, from_start[0], rtol=1e-6)  # what is the same everywhere is so around a spot
    difference = scores[inside].mean() - from_start[0]
    report = adata.uns["concept_saliency"]
    assert adata.varm["concept_saliency"]["GCL"].sum() == pytest.approx(difference, abs=1e-3)
    assert report["score_difference"][0] == pytest.approx(difference, abs=1e-3)
    further = adata.varm["concept_saliency_context"]["GCL"].sum()
    assert further == pytest.approx(report["attribution_sum_surroundings"][0], abs=1e-4)
    assert further == pytest.approx(report["score_difference_surroundings"][0], abs=1e-3)


def test_a_map_is_the_gradient_of_the_score_of_each_spot(seen) -> None:
    adata, model = seen
    whole = Whole(adata, model, "OPL")
    genes = list(adata.var_names[[3, 17, 40]])
    for part in ("both", "own", "surroundings"):
        stc.tl.saliency_map(adata, model, concept="OPL", genes=genes, method="gradient", part=part)
    slots = ("concept_saliency_OPL", "concept_own_saliency_OPL", "concept_context_saliency_OPL")
    both, own, further = (adata.layers[slot].toarray()[:, [3, 17, 40]] for slot in slots)
    np.testing.assert_allclose(both, own + further, atol=1e-5)
    for spot in (0, 50, 119):
        at = torch.as_tensor(whole.features).requires_grad_()
        (found,) = torch.autograd.grad(whole.scores(at)[spot], at)
        np.testing.assert_allclose(both[spot], found.numpy().sum(0)[[3, 17, 40]], rtol=1e-3, atol=1e-5)
        z = whole.rest(at @ whole.weight.T + whole.bias)
        (found,) = torch.autograd.grad(z[spot] @ whole.own, at)
        np.testing.assert_allclose(own[spot], found.numpy().sum(0)[[3, 17, 40]], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["integrated_gradients", "expected_gradients"])
def test_rows_of_a_map_of_all_genes_sum_to_the_score_difference(seen, method) -> None:
    adata, model = seen
    whole = Whole(adata, model, "GCL")
    stc.tl.saliency_map(
        adata, model, concept="GCL", genes="all", method=method, baseline="zero", options=Options(n_samples=400)
    )
    start = whole.scores(torch.zeros(N, G, dtype=torch.float64)).detach().numpy()
    difference = adata.obsm["concept_score"]["GCL"] - start
    tolerance = 2e-3 if method == "integrated_gradients" else 0.1
    np.testing.assert_allclose(adata.layers["concept_saliency_GCL"].sum(1), difference, atol=tolerance)
    report = adata.uns["concept_saliency_GCL"]
    assert report["part"] == "both"
    assert report["score_difference"] == pytest.approx(difference.mean(), abs=2e-3)
    assert report["attribution_sum"] == pytest.approx(difference.mean(), abs=tolerance)


@pytest.mark.parametrize("method", ["integrated_gradients", "expected_gradients"])
@pytest.mark.parametrize("part", ["both", "surroundings"])
def test_blocks_of_genes_make_no_difference(seen, tmp_path, method, part) -> None:
    adata, model = seen
    asked = {"concept": "GCL", "method": method, "part": part, "options": Options(n_samples=5)}
    stc.tl.saliency_map(adata, model, genes="all", **asked, key_added="once")
    stc.tl.saliency_map(adata, model, genes="all", **asked, key_added="blocks", memory_budget=4 * N * G)
    np.testing.assert_allclose(adata.layers["blocks"], adata.layers["once"], rtol=1e-4, atol=1e-6)
    assert adata.uns["blocks"]["score_difference"] == pytest.approx(adata.uns["once"]["score_difference"])
    with pytest.raises(ValueError, match="memory_budget"):
        stc.tl.saliency_map(adata, model, genes="all", **asked, memory_budget=4 * N * G - 1)
    stc.tl.saliency_map(adata, model, genes="all", **asked, key_added="s", memory_budget=1, store=tmp_path / "s.zarr")
    np.testing.assert_allclose(np.asarray(adata.layers["s"]), adata.layers["once"], rtol=1e-4, atol=1e-6)
    genes = list(adata.var_names[[50, 3, 17]])
    stc.tl.saliency_map(adata, model, genes=genes, **asked, key_added="few", store=tmp_path / "few.zarr")
    few = np.asarray(adata.layers["few"])
    np.testing.assert_allclose(few[:, [3, 17, 50]], adata.layers["once"][:, [3, 17, 50]], rtol=1e-5, atol=1e-6)
    assert not np.delete(few, [3, 17, 50], axis=1).any()
    # what is seen in the spot comes row by row, in a store too
    asked |= {"part": "own", "genes": genes}
    stc.tl.saliency_map(adata, model, **asked, key_added="own", store=tmp_path / "own.zarr")
    stc.tl.saliency_map(adata, model, **asked, key_added="held")
    np.testing.assert_array_equal(adata.layers["own"].compute().toarray(), adata.layers["held"].toarray())


def test_sections_do_not_look_at_each_other() -> None:
    adata, model = _fitted()
    two = ad.concat({"a": adata, "b": adata}, label="slide", index_unique="-")
    two.obs["layer"] = two.obs["layer"].where(two.obs["slide"] == "a")
    stc.tl.concepts(two, model, groupby="layer", context=WIDTH, section_key="slide")
    section = Explained.read(two, model)
    moved = section.weights([0])[:, 1]
    assert not moved[N:].any()
    inside = section.members.inside[:N, 0].astype(float)
    np.testing.assert_allclose(moved[:N], dense_average(adata).T @ inside, atol=1e-5)
    assert moved.sum() == pytest.approx(inside.sum(), rel=1e-5)


def test_a_concept_without_context_has_one_part_only(seen) -> None:
    adata, model = seen
    stc.tl.saliency(adata, model)
    assert KEYS.SALIENCY_CONTEXT in adata.varm
    stc.tl.concepts(adata, model, groupby="layer", context=0)
    stc.tl.saliency(adata, model, method="gradient_x_input")
    assert KEYS.SALIENCY_CONTEXT not in adata.varm
    assert "attribution_sum_surroundings" not in adata.uns["concept_saliency"]
    section = Explained.read(adata, model)
    batches = (
        Batch(b.features[inside.any(1)], inside[inside.any(1)].astype(float))
        for b in section.batches()
        for inside in [section.members.inside[b.rows]]
    )
    plain = group_attributions(
        model, batches, method="gradient_x_input", concepts=section.concepts.directions, paired=True
    )
    np.testing.assert_array_equal(adata.varm["concept_saliency"], plain.values[:, 0].T.astype(np.float32))
    stc.tl.saliency_map(adata, model, concept="GCL", genes=[adata.var_names[0]])
    assert adata.uns["concept_saliency_GCL"]["part"] == "own"
    with pytest.raises(ValueError, match="see the spot alone"):
        stc.tl.saliency_map(adata, model, concept="GCL", genes=[adata.var_names[0]], part="surroundings")
    with pytest.raises(ValueError, match="'both', 'own', 'surroundings'"):
        stc.tl.saliency_map(adata, model, concept="GCL", genes=[adata.var_names[0]], part="left")


def test_without_positions_the_spot_alone_is_explained(seen) -> None:
    adata, model = seen
    del adata.obsm["spatial"]
    with pytest.warns(UserWarning, match="no positions"):
        stc.tl.saliency(adata, model)
    assert KEYS.SALIENCY_CONTEXT not in adata.varm
    alone = _fitted()[0].copy()
    alone.uns["concepts"] = read_concepts(alone).alone.to_uns()
    stc.tl.saliency(alone, model)
    np.testing.assert_array_equal(adata.varm["concept_saliency"], alone.varm["concept_saliency"])


def test_the_graph_that_was_given_is_used_again_and_missed(seen) -> None:
    adata, model = seen
    line = np.arange(N - 1)
    graph = np.zeros((N, N))
    graph[line, line + 1] = graph[line + 1, line] = 1.0
    adata.obsp["chain"] = sp.csr_matrix(graph)
    stc.tl.concepts(adata, model, groupby="layer", context=WIDTH, graph_key="chain")
    other = adata.copy()
    stc.tl.score_concepts(other, model, concepts=adata, graph_key="chain")
    for each in (adata, other):
        moved = Explained.read(each, model).weights([1])[:, 1]
        degree = np.diag(graph.sum(1))
        average = np.linalg.inv((1 + WIDTH) * degree - WIDTH * graph) @ degree
        np.testing.assert_allclose(moved, average.T @ (adata.obs["layer"] == "GL").to_numpy(float), atol=1e-5)
    del adata.obsp["chain"]
    with pytest.warns(UserWarning, match="'chain'"):
        assert Explained.read(adata, model).around is None


def test_saliency_of_concepts_from_a_file(seen, tmp_path) -> None:
    adata, model = seen
    stc.tl.saliency(adata, model)
    stc.tl.saliency_map(adata, model, concept="GCL", genes=[adata.var_names[5]])
    adata.write_h5ad(tmp_path / "a.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = ad.read_h5ad(tmp_path / "a.h5ad")
    kept = {slot: back.varm[slot].copy() for slot in ("concept_saliency", "concept_saliency_context")}
    stc.tl.saliency(back, model)
    for slot, frame in kept.items():
        np.testing.assert_array_equal(frame, adata.varm[slot])
        np.testing.assert_array_equal(frame, back.varm[slot])
    assert back.uns["concept_saliency_GCL"]["part"] == "both"


def test_faithfulness_begins_at_the_mean_score(seen) -> None:
    adata, model = seen
    stc.tl.saliency(adata, model)
    table = stc.evaluate.faithfulness(adata, model, concept="GCL", n_top=(5, 20), n_random=2)
    inside = (adata.obs["layer"] == "GCL").to_numpy()
    first = table.query("curve == 'deletion' and n_genes == 0")["score"].item()
    assert first == pytest.approx(adata.obsm["concept_score"]["GCL"][inside].mean(), abs=1e-4)
    nothing = table.query("curve == 'insertion' and n_genes == 0")["score"].item()
    assert first - nothing == pytest.approx(adata.uns["concept_saliency"]["score_difference"][4], abs=1e-4)
    assert (table.query("n_genes == 20")["ratio"] > 1.5).all()
