from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc
from st_concepts.concepts import read_concepts

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]


def _frozen(adata) -> dict:
    """Everything a function of tl may write, to compare with later."""
    return {
        name: {k: np.asarray(v) if not sp.issparse(v) else v.toarray() for k, v in getattr(adata, name).items()}
        for name in ("obsm", "varm", "layers")
    } | {"uns": sorted(adata.uns), "obs": adata.obs.copy(), "X": adata.X.toarray(), "var": adata.var.copy()}


def _same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


# ---------------------------------------------------------------------------------------------- the vectors


def test_embed_is_the_posterior_mean(trained) -> None:
    adata, model = trained
    stc.tl.embed(adata, model)
    assert adata.obsm["X_stc"].dtype == np.float32
    np.testing.assert_allclose(adata.obsm["X_stc"], model.embed(), rtol=1e-4, atol=1e-5)


def test_mean_difference_of_a_layer_is_the_difference_of_mean_embeddings(trained) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer", estimator="mean_difference")
    z = model.embed().astype(np.float64)
    for name, vector in zip(LAYERS, adata.uns["concepts"]["vectors"], strict=True):
        inside = (adata.obs["layer"] == name).to_numpy()
        np.testing.assert_allclose(vector, z[inside].mean(0) - z[~inside].mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", ["discriminant", "mean_difference", "logistic"])
def test_scores_are_projections_centred_and_scaled(trained, estimator) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer", estimator=estimator)
    scores = adata.obsm["concept_score"]
    assert (scores.dtypes == np.float32).all()
    projected = model.embed().astype(np.float64) @ adata.uns["concepts"]["vectors"].T.astype(np.float64)
    np.testing.assert_allclose(scores, (projected - projected.mean(0)) / projected.std(0), atol=2e-4)
    for name in LAYERS:
        inside = adata.obs["layer"] == name
        assert scores.loc[inside, name].mean() > scores.loc[~inside, name].mean() + 1


def test_a_boolean_column_a_mask_and_a_two_level_column_are_one_concept(trained) -> None:
    adata, model = trained
    inside = adata.obs["layer"] == "MCL"
    adata.obs["mitral"] = inside
    adata.obs["two"] = np.where(inside, "mitral", "other")
    vectors = []
    for options in (
        {"groupby": "mitral"},
        {"mask": {"mitral": inside}},
        {"mask": "mitral"},
        {"mask": inside.to_numpy()},
    ):
        stc.tl.concepts(adata, model, **options)
        vectors.append(adata.uns["concepts"]["vectors"][0])
        assert adata.uns["concepts"]["params"]["kind"] == "mask"
    stc.tl.concepts(adata, model, groupby="two", groups=["mitral"], unlabelled="ignore")
    for vector in vectors:
        np.testing.assert_array_equal(vector, adata.uns["concepts"]["vectors"][0])
    assert list(adata.obsm["concept_score"]) == ["mitral"]


def test_reference_label(trained) -> None:
    adata, model = trained
    stc.tl.concepts(adata, model, groupby="layer", groups=["MCL"], reference="GCL", estimator="mean_difference")
    z = model.embed().astype(np.float64)
    layer = adata.obs["layer"]
    expected = z[layer == "MCL"].mean(0) - z[layer == "GCL"].mean(0)
    np.testing.assert_allclose(adata.uns["concepts"]["vectors"][0], expected, rtol=1e-3, atol=1e-4)
    assert adata.uns["concepts"]["params"]["reference"] == "GCL"
    members = adata.obsm["concept_members"]["MCL"]
    assert (members[~layer.isin(["MCL", "GCL"])] == -1).all()


def test_seed_genes_score_with_their_expression(trained) -> None:
    adata, model = trained
    seeds = {layer: list(adata.var_names[adata.var["marker_of"].astype(str) == layer][:3]) for layer in ("GCL", "ONL")}
    features = np.log1p(adata.X.toarray() / adata.X.sum(1) * model.target_sum)
    for estimator in ("discriminant", "mean_difference"):
        stc.tl.concepts(adata, model, genes=seeds, estimator=estimator)
        for name, genes in seeds.items():
            values = np.asarray(features[:, adata.var_names.get_indexer(genes)])
            target = ((values - values.mean(0)) / values.std(0)).mean(1)
            assert np.corrcoef(target, adata.obsm["concept_score"][name])[0, 1] > 0.7
            assert adata.obsm["concept_score"][name][adata.obs["layer"] == name].mean() > 0.5
    stc.tl.concepts(adata, model, genes=seeds["GCL"][0])
    assert list(adata.obsm["concept_score"]) == [f"{seeds['GCL'][0]}-like"]


def test_the_users_own_vectors(trained) -> None:
    adata, model = trained
    vectors = np.eye(6)[:2]
    stc.tl.concepts(adata, model, vectors=vectors)
    z = model.embed()
    np.testing.assert_allclose(
        adata.obsm["concept_score"], (z[:, :2] - z[:, :2].mean(0)) / z[:, :2].std(0), rtol=1e-3, atol=1e-3
    )
    assert list(adata.obsm["concept_score"]) == ["concept_0", "concept_1"]
    by_name = stc.tl.concepts(adata, model, vectors={"first": vectors[0]}, copy=True)
    assert list(by_name.obsm["concept_score"]) == ["first"]
    # nothing was labelled: members are the spots that score above one standard deviation
    expected = (by_name.obsm["concept_score"]["first"] > 1).astype(int)
    np.testing.assert_array_equal(by_name.obsm["concept_members"]["first"], expected)


def test_gradient_of_the_linear_model_is_direction_times_encoder_weights(untrained) -> None:
    adata, model = untrained
    stc.tl.concepts(adata, model, groupby="layer")
    made = read_concepts(adata)
    w_e = model.first_layer.weight[: model.n_latent].double().numpy()
    np.testing.assert_allclose(adata.varm["concept_gradient"].to_numpy().T, made.directions @ w_e, rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------------------------------- labels


def test_unlabelled_spots_are_allowed_scored_and_learned_from(trained) -> None:
    adata, model = trained
    truth = adata.obs["layer"].copy()
    rng = np.random.default_rng(0)
    keep = np.concatenate([rng.permutation(np.flatnonzero(truth == name))[:4] for name in LAYERS])
    adata.obs["layer"] = truth.where(np.isin(np.arange(adata.n_obs), keep))
    options = {"groupby": "layer", "context": 0, "n_null": 0, "copy": True}
    learned = stc.tl.concepts(adata, model, **options)
    ignored = stc.tl.concepts(adata, model, unlabelled="ignore", **options)
    assert learned.obsm["concept_score"].notna().all().all()
    assert learned.uns["concepts"]["n_labelled"].tolist() == [4] * 5
    assert (learned.obsm["concept_members"] == -1).sum().tolist() == [280] * 5
    assert learned.obs["concept_disagreement"].notna().sum() == 20
    assert "concept_disagreement" not in ignored.obs
    right = [
        (np.array(LAYERS)[a.obsm["concept_score"].to_numpy().argmax(1)] == truth.astype(str)).mean()
        for a in (learned, ignored)
    ]
    assert right[0] > right[1]


def test_wrong_labels_count_for_less_and_the_others_put_it_right(trained) -> None:
    adata, model = trained
    truth = adata.obs["layer"].cat.codes.to_numpy()
    rng = np.random.default_rng(0)
    wrong = np.isin(np.arange(adata.n_obs), rng.permutation(adata.n_obs)[:120])  # 40%
    codes = np.where(wrong, (truth + rng.integers(1, 5, len(truth))) % 5, truth)
    adata.obs["noisy"] = pd.Categorical.from_codes(codes, LAYERS)
    stc.tl.concepts(adata, model, groupby="layer", context=0, n_null=0)
    trust = adata.uns["concepts"]["params"]["label_trust"]
    stc.tl.concepts(adata, model, groupby="noisy", context=0, n_null=0)
    assert adata.uns["concepts"]["params"]["label_trust"] < 0.6 * trust
    as_given = adata.obsm["concept_weight"].to_numpy()[np.arange(adata.n_obs), codes]
    assert as_given[wrong].mean() < as_given[~wrong].mean() - 0.3
    learned = np.array(LAYERS)[adata.obsm["concept_score"].to_numpy().argmax(1)]
    stc.tl.concepts(adata, model, groupby="noisy", context=0, n_null=0, unlabelled="ignore")
    taken = np.array(LAYERS)[adata.obsm["concept_score"].to_numpy().argmax(1)]
    true = np.array(LAYERS)[truth]
    assert (learned == true).mean() > (taken == true).mean()


def test_disagreement_of_an_earlier_run_does_not_stay(scored) -> None:
    adata, model = scored
    assert "concept_disagreement" in adata.obs
    stc.tl.concepts(adata, model, vectors=np.eye(6)[:1])
    assert "concept_disagreement" not in adata.obs


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["str", "object", "categorical", "ordered", "string", "int", "Int64"]),
    share_missing=st.sampled_from([0.0, 0.3]),
    matrix=st.sampled_from(["csr", "csc", "dense", "csr_array"]),
    dtype=st.sampled_from(["float32", "float64", "int32", "uint16"]),
)
def test_labels_and_matrices_of_every_kind_give_one_result(untrained, kind, share_missing, matrix, dtype) -> None:
    adata, model = untrained
    adata = adata.copy()
    text = {name: str(i) for i, name in enumerate(LAYERS)}
    truth = adata.obs["layer"].astype(str).map(text)
    missing = np.arange(adata.n_obs) < share_missing * adata.n_obs
    missing = np.random.default_rng(0).permutation(missing)
    adata.obs["plain"] = pd.Categorical(truth.where(~missing))
    expected = stc.tl.concepts(adata, model, groupby="plain", copy=True)

    column = truth.astype(object).where(~missing, None)
    if kind == "int" and share_missing:
        kind = "Int64"  # integers of numpy cannot be missing
    convert = {
        "str": lambda c: c.where(~missing, np.nan),
        "object": lambda c: c,
        "categorical": lambda c: c.astype("category"),
        "ordered": lambda c: pd.Series(pd.Categorical(c, categories=["0", "1", "2", "3", "4"], ordered=True), c.index),
        "string": lambda c: c.astype("string"),
        "int": lambda c: c.astype(int),
        "Int64": lambda c: pd.to_numeric(c).astype("Int64"),
    }[kind]
    adata.obs["any"] = convert(column)
    values = adata.X.toarray().astype(dtype)
    adata.X = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray, "csr_array": sp.csr_array}[matrix](
        values
    )
    stc.tl.concepts(adata, model, groupby="any")
    assert list(adata.obsm["concept_score"]) == list(expected.obsm["concept_score"])
    np.testing.assert_allclose(adata.obsm["concept_score"], expected.obsm["concept_score"], atol=1e-4)
    np.testing.assert_array_equal(adata.obsm["concept_members"], expected.obsm["concept_members"])


def test_a_layer_with_a_slash_throughout(trained) -> None:
    adata, model = trained
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3"})
    stc.tl.concepts(adata, model, groupby="layer")
    assert list(adata.uns["concepts"]["names"]) == ["ONL", "GL", "OPL", "L2/3", "GCL"]
    stc.tl.saliency(adata, model, concepts=["L2/3"], baseline="GCL")
    stc.tl.saliency_map(adata, model, concept="L2/3", genes=adata.var_names[:2])
    stc.tl.rank_genes_concepts(adata, null="none")
    for slots in (adata.obsm, adata.varm, adata.layers, adata.uns):
        assert not any("/" in key for key in slots)
    assert "concept_saliency_L2_3" in adata.layers
    assert stc.get.concept_scores(adata).columns.tolist()[3] == "L2/3"
    assert stc.get.markers(adata, "L2/3").shape[0] == adata.n_vars


def test_counts_in_a_layer(trained) -> None:
    adata, model = trained
    expected = stc.tl.concepts(adata, model, groupby="layer", copy=True)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.zeros(adata.shape, dtype=np.float32)
    stc.tl.concepts(adata, model, groupby="layer", layer="counts")
    np.testing.assert_array_equal(adata.obsm["concept_score"], expected.obsm["concept_score"])
    # later steps find the counts where the concepts had them
    for data in (adata, expected):
        stc.tl.saliency(data, model)
        stc.tl.rank_genes_concepts(data, n_null=0)
    np.testing.assert_array_equal(adata.varm["concept_saliency"], expected.varm["concept_saliency"])
    pd.testing.assert_frame_equal(stc.get.markers(adata), stc.get.markers(expected))


def test_an_empty_spot_has_a_score_and_moves_nothing(trained) -> None:
    adata, model = trained
    before = stc.tl.concepts(adata, model, groupby="layer", copy=True)
    counts = adata.X.tolil()
    counts[0] = 0
    counts[0, 5] = 1
    adata.X = counts.tocsr()
    stc.tl.concepts(adata, model, groupby="layer")
    assert np.isfinite(adata.obsm["concept_score"].to_numpy()).all()
    cosine = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(adata.uns["concepts"]["vectors"], before.uns["concepts"]["vectors"], strict=True)
    ]
    assert min(cosine) > 0.99


# ---------------------------------------------------------------------------------------------- copies, errors


def test_copy_leaves_the_input_untouched(trained) -> None:
    adata, model = trained
    before = _frozen(adata)
    made = stc.tl.concepts(adata, model, groupby="layer", copy=True)
    assert _same(_frozen(adata), before)
    for function, options in (
        (stc.tl.embed, {"model": model}),
        (stc.tl.saliency, {"model": model}),
        (stc.tl.saliency_map, {"model": model, "concept": "GCL", "genes": adata.var_names[0]}),
        (stc.tl.score_concepts, {"model": model, "concepts": made}),
        (stc.tl.rank_genes_concepts, {"null": "none"}),
    ):
        before = _frozen(made)
        changed = function(made, copy=True, **options)
        assert _same(_frozen(made), before), function.__name__
        assert not _same(_frozen(changed), before) or function is stc.tl.score_concepts
        in_place = made.copy()
        assert function(in_place, **options) is None
        assert _same(_frozen(in_place), _frozen(changed))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "exactly one of groupby, mask, genes and vectors .* got none"),
        ({"groupby": "layer", "genes": ["iid0"]}, ValueError, "got groupby and genes"),
        ({"groupby": "Layer"}, KeyError, "Did you mean 'layer'"),
        ({"groupby": "layer", "unlabelled": "drop"}, ValueError, "use 'learn' or 'ignore'"),
        ({"groupby": "layer", "estimator": "lda"}, ValueError, "choose one of"),
        ({"groupby": "layer", "groups": ["EPL"]}, ValueError, "No spot is labelled 'EPL'"),
        ({"groupby": "one"}, ValueError, "no spot to compare with"),
        ({"groupby": "none"}, ValueError, "Every spot is unlabelled"),
        ({"mask": [True, False]}, ValueError, "2 entries for 300 spots"),
        ({"genes": ["nope"]}, KeyError, "nope"),
        ({"genes": {"nothing": []}}, KeyError, "no gene"),
        ({"genes": ["iid0"], "estimator": "logistic"}, ValueError, "continuous target"),
        ({"vectors": np.ones((1, 3))}, ValueError, "must hold 6 finite numbers"),
        ({"vectors": {"x": np.full(6, np.nan)}}, ValueError, "'x' must hold 6 finite numbers"),
        ({"vectors": np.zeros((1, 6))}, ValueError, "same at every spot"),
        ({"groupby": "layer", "layer": "counts"}, KeyError, "counts"),
    ],
)
def test_a_users_error_is_named_and_leaves_the_data_untouched(trained, options, error, text) -> None:
    adata, model = trained
    adata.obs["one"] = pd.Categorical(["a"] * adata.n_obs)
    adata.obs["none"] = pd.Categorical([None] * adata.n_obs, categories=["a"])
    before = _frozen(adata)
    with pytest.raises(error, match=text):
        stc.tl.concepts(adata, model, **options)
    assert _same(_frozen(adata), before)


def test_measurements_are_no_labels(trained) -> None:
    adata, model = trained
    adata.obs["depth"] = np.linspace(0, 1, adata.n_obs)
    with pytest.raises(ValueError, match=r"'depth'\] holds measurements, not labels\..*pd\.cut"):
        stc.tl.concepts(adata, model, groupby="depth")
    adata.obs["cluster"] = np.where(np.arange(adata.n_obs) < 150, 1.0, 2.0)  # whole numbers read as floats are labels
    stc.tl.concepts(adata, model, groupby="cluster", n_null=0)
    assert adata.obsm["concept_score"].shape[1] == 2


def test_seed_genes_by_another_kind_of_name(trained) -> None:
    adata, model = trained
    with pytest.raises(KeyError, match=f"ENSMUSG1.*genes are called like '{adata.var_names[0]}'"):
        stc.tl.concepts(adata, model, genes={"a": ["ENSMUSG1"]})


def test_counts_that_are_none_leave_the_data_untouched(scored) -> None:
    adata, model = scored
    adata.X = adata.X * 0.5
    before = _frozen(adata)
    for function, options in (
        (stc.tl.concepts, {"groupby": "layer"}),
        (stc.tl.embed, {}),
        (stc.tl.saliency, {}),
        (stc.tl.saliency_map, {"concept": "GCL", "genes": adata.var_names[:1]}),
    ):
        with pytest.raises(ValueError, match="integer"):
            function(adata, model, **options)
    with pytest.raises(ValueError, match="integer"):
        stc.tl.rank_genes_concepts(adata)
    assert _same(_frozen(adata), before)


def test_not_a_model(trained) -> None:
    adata, _ = trained
    with pytest.raises(TypeError, match="must be a model, not an AnnData"):
        stc.tl.concepts(adata, adata, groupby="layer")
    with pytest.raises(TypeError, match="str is not a model"):
        stc.tl.concepts(adata, "model", groupby="layer")


def test_two_labelled_spots_warn_and_name_the_users_line(trained) -> None:
    adata, model = trained
    mask = np.arange(adata.n_obs) < 2
    with pytest.warns(UserWarning, match="rests on 2 labelled spots") as record:
        stc.tl.concepts(adata, model, mask=mask, n_null=0)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stc.tl.concepts(adata, model, mask=np.arange(adata.n_obs) < 3, n_null=0)


def test_a_second_set_of_concepts_has_slots_of_its_own(simulated) -> None:
    model = stc.SpotVAE(simulated, n_latent=5).fit(max_epochs=0, progress=False)
    stc.tl.concepts(simulated, model, groupby="layer")
    before = {k: simulated.obsm[k].copy() for k in ("concept_score", "concept_members")}
    gradient = simulated.varm["concept_gradient"].copy()
    stc.tl.concepts(simulated, model, groupby="layer", groups=["GCL"], reference="ONL", key_added="pair")
    for key, frame in before.items():
        pd.testing.assert_frame_equal(simulated.obsm[key], frame)
    pd.testing.assert_frame_equal(simulated.varm["concept_gradient"], gradient)
    labels = simulated.obs["layer"].astype(str)
    expected = np.select([labels == "GCL", labels == "ONL"], [1, 0], -1)
    np.testing.assert_array_equal(simulated.obsm["pair_members"]["GCL"], expected)
    stc.tl.rank_genes_concepts(simulated, concepts_key="pair", key_added="pair_genes", n_null=0)
    assert simulated.uns["pair_genes"]["names"].dtype.names == ("GCL",)
