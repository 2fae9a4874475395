from __future__ import annotations

import numpy as np
import pytest
import torch

import st_concepts as stc
from st_concepts.attribution import Options
from st_concepts.concepts import read_concepts


def _features(adata, model) -> np.ndarray:
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * model.target_sum)


def _score(model, made, features: np.ndarray) -> np.ndarray:
    """Concept scores of dense features through the whole encoder, ``(n, n_concepts)``."""
    with torch.no_grad():
        return made.score(model.encode(torch.as_tensor(features, dtype=torch.float32)).numpy())


def _baseline(features: np.ndarray, layer: np.ndarray, name: str, baseline: object) -> np.ndarray:
    if not isinstance(baseline, str):
        return np.asarray(baseline)
    return {
        "zero": lambda: np.zeros(features.shape[1]),
        "mean": lambda: features.mean(0),
        "others": lambda: features[layer != name].mean(0),
    }.get(baseline, lambda: features[layer == baseline].mean(0))()


@pytest.mark.parametrize("baseline", ["others", "mean", "zero", "GL"])
def test_integrated_gradients_sum_to_the_score_difference(scored, baseline) -> None:
    adata, model = scored
    stc.tl.saliency(adata, model, baseline=baseline, options=Options(n_steps=200))
    made, features, layer = read_concepts(adata), _features(adata, model), adata.obs["layer"].astype(str).to_numpy()
    score = _score(model, made, features)
    sums = adata.varm["concept_saliency"].sum()
    for j, name in enumerate(made.names):
        if name == baseline:
            continue
        start = _score(model, made, _baseline(features, layer, name, baseline)[None])[0, j]
        assert sums[name] == pytest.approx(score[layer == name, j].mean() - start, abs=2e-3)
    report = adata.uns["concept_saliency"]
    np.testing.assert_allclose(report["attribution_sum"], report["score_difference"], atol=2e-3)
    assert report["params"]["baseline"] == baseline


def test_a_profile_as_baseline(scored) -> None:
    adata, model = scored
    import pandas as pd

    mean = _features(adata, model).mean(0)
    by_name = stc.tl.saliency(adata, model, baseline="mean", copy=True).varm["concept_saliency"]
    for profile in (mean, pd.Series(mean, adata.var_names)[::-1]):
        stc.tl.saliency(adata, model, baseline=profile)
        np.testing.assert_allclose(adata.varm["concept_saliency"], by_name, rtol=1e-3, atol=1e-6)
    assert adata.uns["concept_saliency"]["params"]["baseline"] == "profile"


def test_gradient_of_the_linear_model_is_vectors_times_weights(untrained) -> None:
    adata, model = untrained
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model, method="gradient")
    made = read_concepts(adata)
    w_e = model.first_layer.weight[: model.n_latent].double().numpy()
    expected = (made.vectors.astype(np.float64) @ w_e) / made.scale[:, None]
    np.testing.assert_allclose(adata.varm["concept_saliency"].to_numpy().T, expected, rtol=1e-3, atol=1e-6)


def test_methods_agree_on_the_linear_model(untrained) -> None:
    """There, integrated gradients are gradient times (mean inside minus baseline)."""
    adata, model = untrained
    stc.tl.concepts(adata, model, groupby="layer")
    features, layer = _features(adata, model), adata.obs["layer"].astype(str).to_numpy()
    made = read_concepts(adata)
    gradient = made.directions @ model.first_layer.weight[: model.n_latent].double().numpy()
    stc.tl.saliency(adata, model)
    stc.tl.saliency(adata, model, method="gradient_x_input", key_added="gxi")
    for j, name in enumerate(made.names):
        inside, others = features[layer == name].mean(0), features[layer != name].mean(0)
        np.testing.assert_allclose(
            adata.varm["concept_saliency"][name], gradient[j] * (inside - others), rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(adata.varm["gxi"][name], gradient[j] * inside, rtol=1e-3, atol=1e-5)


def test_gradient_of_the_trained_model_by_finite_differences(scored) -> None:
    adata, model = scored
    stc.tl.saliency(adata, model, method="gradient")
    made, layer = read_concepts(adata), adata.obs["layer"].astype(str).to_numpy()
    x = torch.as_tensor(_features(adata, model), dtype=torch.float64)
    first = model.first_layer
    rest = first.rest
    weight, bias = first.weight.double(), first.bias.double()
    import copy

    rest = copy.deepcopy(rest).double()

    def mean_score(features: torch.Tensor, j: int) -> float:
        with torch.no_grad():
            z = rest(features @ weight.T + bias[-1]).numpy()
        return float((z @ made.directions[j])[layer == made.names[j]].mean())

    for gene in range(0, 200, 40):
        for j in (0, 4):
            step = torch.zeros(200, dtype=torch.float64)
            step[gene] = 1e-6
            slope = (mean_score(x + step, j) - mean_score(x - step, j)) / 2e-6
            assert adata.varm["concept_saliency"].iloc[gene, j] == pytest.approx(slope, rel=2e-2, abs=1e-5)


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "integrated_gradients"])
@pytest.mark.parametrize("baseline", ["others", "zero"])
def test_mean_of_the_map_over_the_spots_of_the_concept_is_the_saliency(scored, method, baseline) -> None:
    adata, model = scored
    stc.tl.saliency(adata, model, method=method, baseline=baseline)
    genes = list(adata.var_names[[3, 150, 40]])
    stc.tl.saliency_map(adata, model, concept="MCL", genes=genes, method=method, baseline=baseline)
    inside = (adata.obs["layer"] == "MCL").to_numpy()
    means = np.asarray(adata.layers["concept_saliency_MCL"][inside].mean(0)).ravel()
    expected = adata.varm["concept_saliency"]["MCL"]
    index = adata.var_names.get_indexer(genes)
    np.testing.assert_allclose(means[index], expected.iloc[index], rtol=1e-3, atol=1e-6)
    assert not np.delete(means, index).any()


def test_some_concepts_only(scored) -> None:
    adata, model = scored
    stc.tl.saliency(adata, model)
    every = adata.varm["concept_saliency"]
    stc.tl.saliency(adata, model, concepts=["GCL", "ONL"])
    assert list(adata.varm["concept_saliency"]) == ["GCL", "ONL"]
    np.testing.assert_allclose(adata.varm["concept_saliency"], every[["GCL", "ONL"]], rtol=1e-5)


def test_unlabelled_spots_are_not_explained(trained) -> None:
    """Saliency is a mean over the spots of the concept; others may be anything."""
    adata, model = trained
    adata.obs["layer"] = adata.obs["layer"].where(np.arange(300) % 3 != 0)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model, method="gradient_x_input")
    stc.tl.saliency_map(adata, model, concept="GCL", genes="all", method="gradient_x_input")
    inside = (adata.obs["layer"] == "GCL").to_numpy()
    np.testing.assert_allclose(
        np.asarray(adata.layers["concept_saliency_GCL"][inside].mean(0)).ravel(),
        adata.varm["concept_saliency"]["GCL"],
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": "lime"}, ValueError, "integrated_gradients"),
        ({"concepts": ["EPL"]}, KeyError, "'EPL' is unknown; there are: ONL"),
        ({"baseline": "black"}, ValueError, "'others', 'mean', 'zero'"),
        ({"baseline": np.zeros(3)}, ValueError, "200"),
    ],
)
def test_errors(scored, options, error, text) -> None:
    adata, model = scored
    keys = set(adata.varm), set(adata.uns)
    with pytest.raises(error, match=text):
        stc.tl.saliency(adata, model, **options)
    assert (set(adata.varm), set(adata.uns)) == keys


def test_unknown_gene_of_a_map(scored) -> None:
    adata, model = scored
    with pytest.raises(KeyError, match=r"not in adata\.var_names: nope"):
        stc.tl.saliency_map(adata, model, concept="GCL", genes=["nope"])
    with pytest.raises(KeyError, match=r"run stc\.tl\.concepts"):
        stc.tl.saliency(adata[:, :].copy(), model, concepts_key="missing")
