from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import st_concepts as stc
from st_concepts.concepts import read_concepts

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:zarr"),
]
LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]


def _error(probability: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in ten bins of equal size."""
    bins = np.array_split(np.argsort(probability), 10)
    return sum(len(b) * abs(probability[b].mean() - right[b].mean()) for b in bins) / len(right)


@pytest.fixture
def partly(trained):
    """Half of the labels, and what the others are."""
    adata, model = trained
    truth = adata.obs["layer"].astype(str).to_numpy()
    hidden = np.random.default_rng(0).random(adata.n_obs) < 0.5
    adata.obs["layer"] = adata.obs["layer"].where(~hidden)
    stc.tl.concepts(adata, model, groupby="layer", n_null=0)
    return adata, model, truth, hidden


def test_unlabelled_spots_get_their_layer(partly) -> None:
    adata, model, truth, hidden = partly
    colours = adata.uns.setdefault("layer_colors", np.array(["#000000"] * 5, dtype=object)).copy()
    before = adata.obs["layer"].copy()
    stc.tl.predict_labels(adata, model)
    label, probability = adata.obs["concept_label"], adata.obsm["concept_probability"]
    assert label.cat.categories.tolist() == [*LAYERS, "none of these"]
    assert probability.columns.tolist() == LAYERS
    assert (probability.dtypes == np.float32).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    told = (label != "none of these").to_numpy()
    assert told.mean() > 0.95
    assert (label[told] == probability.idxmax(axis=1)[told]).all()
    assert (label[hidden].astype(str) == truth[hidden]).mean() > 0.7
    pd.testing.assert_series_equal(adata.obs["layer"], before)
    np.testing.assert_array_equal(adata.uns["layer_colors"], colours)
    assert "concept_label_colors" not in adata.uns


def test_probabilities_are_those_of_the_coefficients(partly) -> None:
    adata, model, _, _ = partly
    stc.tl.predict_labels(adata, model)
    stored = adata.uns["concepts"]["calibration"]
    odds = adata.obsm["concept_score"].to_numpy().astype(float) @ stored["weights"] + stored["bias"]
    expected = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    np.testing.assert_allclose(adata.obsm["concept_probability"], expected, atol=1e-4)


def test_another_section_by_anndata_by_set_and_from_a_file(partly, other, tmp_path: Path) -> None:
    adata, model, _, _ = partly
    for i, form in enumerate(("h5ad", "zarr")):
        path = tmp_path / f"concepts.{form}"
        getattr(adata, f"write_{form}")(path)
        back = getattr(ad, f"read_{form}")(path)
        found = [
            stc.tl.predict_labels(other, model, concepts=c, copy=True)
            for c in (adata, adata.uns["concepts"], read_concepts(adata), back)
        ]
        for one in found[1:]:
            pd.testing.assert_frame_equal(one.obsm["concept_probability"], found[0].obsm["concept_probability"])
            pd.testing.assert_series_equal(one.obs["concept_label"], found[0].obs["concept_label"])
        again = tmp_path / f"labels{i}.{form}"
        getattr(found[0], f"write_{form}")(again)
        back = getattr(ad, f"read_{form}")(again)
        pd.testing.assert_series_equal(back.obs["concept_label"], found[0].obs["concept_label"])
        pd.testing.assert_frame_equal(back.obsm["concept_probability"], found[0].obsm["concept_probability"])
    assert "concept_label" not in other.obs
    assert (found[0].obs["concept_label"].astype(str) == other.obs["layer"].astype(str)).mean() > 0.6


def test_names_that_no_key_can_hold_and_a_layer_called_none(trained) -> None:
    adata, model = trained
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"MCL": "L2/3", "GCL": "none of these"})
    stc.tl.concepts(adata, model, groupby="layer", n_null=0, key_added="mine")
    stc.tl.predict_labels(adata, model, key_added="mine")
    names = ["ONL", "GL", "OPL", "L2/3", "none of these", "none of these, predicted"]
    assert adata.obs["mine_label"].cat.categories.tolist() == names
    assert adata.obsm["mine_probability"].columns.tolist() == ["ONL", "GL", "OPL", "L2_3", "none of these"]
    assert stc.get.concept_labels(adata, key="mine")["label"].cat.categories.tolist() == names


def test_spots_unlike_any_layer_are_none_of_them(partly) -> None:
    adata, model, _, _ = partly
    strange = adata.copy()
    counts = strange.X.toarray()
    rng = np.random.default_rng(0)
    counts[:20] = rng.permuted(np.sort(counts[:20] ** 3 + 5, axis=1), axis=1)
    strange.X = counts
    stc.tl.predict_labels(strange, model, concepts=adata)
    none = (strange.obs["concept_label"] == "none of these").to_numpy()
    assert none[:20].mean() > 0.5
    assert none[20:].mean() < 0.05


def test_threshold_and_spots_without_counts(partly) -> None:
    adata, model, _, _ = partly
    counts = adata.X.toarray()
    counts[3] = 0
    adata.X = counts
    stc.tl.predict_labels(adata, model, threshold=0.9)
    label, best = adata.obs["concept_label"], adata.obsm["concept_probability"].max(axis=1)
    assert np.isnan(best.iloc[3])
    assert label.isna().iloc[3]
    inside = label.isin(LAYERS)
    assert (best[inside] >= 0.9).all()
    assert (best[label.isna()].dropna() < 0.9).all()


def test_masks_have_probabilities_of_their_own(trained) -> None:
    adata, model = trained
    masks = {
        "GCL": (adata.obs["layer"] == "GCL").to_numpy(),
        "inner": adata.obs["layer"].isin(["GCL", "MCL"]).to_numpy(),
    }
    stc.tl.concepts(adata, model, mask=masks, n_null=0)
    assert "concept_disagreement" not in adata.obs
    stc.tl.predict_labels(adata, model)
    found = adata.obsm["concept_probability"]
    assert found.sum(axis=1).max() > 1.2
    for name, inside in masks.items():
        assert found[name][inside].mean() > found[name][~inside].mean() + 0.3
        assert found[name].mean() == pytest.approx(inside.mean(), abs=0.1)
    np.testing.assert_array_equal(adata.obs["concept_label"] == "none of these", (found <= 0.5).all(axis=1))


@pytest.mark.parametrize("learn", ["learn", "ignore"])
@pytest.mark.parametrize("estimator", ["discriminant", "mean_difference", "logistic"])
def test_every_estimator_is_calibrated(trained, estimator: str, learn: str) -> None:
    adata, model = trained
    truth = adata.obs["layer"].astype(str)
    hidden = np.random.default_rng(1).random(adata.n_obs) < 0.4
    adata.obs["layer"] = adata.obs["layer"].where(~hidden)
    stc.tl.concepts(adata, model, groupby="layer", estimator=estimator, unlabelled=learn, n_null=0)
    assert adata.uns["concepts"]["calibration"]["exclusive"]
    stc.tl.predict_labels(adata, model)
    found = adata.obsm["concept_probability"][hidden]
    right = (found.idxmax(axis=1) == truth[hidden]).to_numpy()
    assert abs(found.max(axis=1).mean() - right.mean()) < 0.15


def test_labels_of_an_earlier_run_do_not_stay(partly) -> None:
    adata, model, _, _ = partly
    stc.tl.predict_labels(adata, model)
    stc.tl.concepts(adata, model, vectors=np.eye(6)[:1])
    assert not {"concept_label", "concept_disagreement"} & set(adata.obs)
    assert "concept_probability" not in adata.obsm


def test_what_cannot_be_predicted_is_said(partly, untrained, other) -> None:
    adata, model, _, _ = partly
    with pytest.raises(KeyError, match=r"run stc\.tl\.concepts"):
        stc.tl.predict_labels(other, model)
    with pytest.raises(ValueError, match="threshold=2 is a probability"):
        stc.tl.predict_labels(adata, model, threshold=2)
    with pytest.raises(ValueError, match="were made with model"):
        stc.tl.predict_labels(adata, untrained[1])
    for options in ({"vectors": np.eye(6)[:1]}, {"genes": [adata.var_names[0]]}):
        stc.tl.concepts(adata, model, **options, key_added="more")
        with pytest.raises(ValueError, match=f"made of {next(iter(options))}, not of labels"):
            stc.tl.predict_labels(adata, model, key_added="more")
    old = dict(adata.uns["concepts"])
    del old["calibration"]
    with pytest.raises(ValueError, match="an earlier version made them"):
        stc.tl.predict_labels(adata, model, concepts=old)
    stc.tl.concepts(adata, model, groupby="layer", context=10, n_null=0)
    del other.obsm["spatial"]
    with pytest.raises(ValueError, match="no positions here"):
        stc.tl.predict_labels(other, model, concepts=adata)


@pytest.mark.real_data
def test_the_real_bulb_is_calibrated_and_doubts_wrong_labels(mob11) -> None:
    """A quarter of the labels held out, four times; then a fifth of the labels wrong."""
    from sklearn.metrics import roc_auc_score

    adata = mob11
    model = stc.SpotVAE(adata).fit(max_epochs=0, progress=False)
    truth = adata.obs["layer"].copy()
    known = truth.notna().to_numpy()
    fold = np.random.default_rng(0).integers(0, 4, adata.n_obs)
    best, right = [], []
    for f in range(4):
        adata.obs["given"] = truth.where(fold != f)
        stc.tl.concepts(adata, model, groupby="given", n_null=0)
        stc.tl.predict_labels(adata, model)
        found = adata.obsm["concept_probability"][(fold == f) & known].dropna()
        best.append(found.max(axis=1).to_numpy())
        right.append((found.idxmax(axis=1) == truth[found.index].astype(str)).to_numpy())
    conf, ok = np.concatenate(best), np.concatenate(right)
    assert ok.mean() > 0.75
    assert abs(conf.mean() - ok.mean()) < 0.05
    assert _error(conf, ok) < 0.07  # 260 spots: .03 of it is chance
    rng = np.random.default_rng(0)
    wrong = (rng.random(adata.n_obs) < 0.2) & known
    codes = truth.cat.codes.to_numpy()
    noisy = np.where(wrong, (codes + rng.integers(1, 5, len(codes))) % 5, codes)
    adata.obs["given"] = pd.Categorical.from_codes(noisy, truth.cat.categories)
    stc.tl.concepts(adata, model, groupby="given", n_null=0)
    doubt = adata.obs["concept_disagreement"]
    told = doubt.notna().to_numpy()
    assert roc_auc_score(wrong[told], doubt[told]) > 0.93
