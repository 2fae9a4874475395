from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import st_concepts as stc
from st_concepts._counts.store import LayerWriter
from st_concepts.attribution import METHODS, Options
from st_concepts.attribution import _explained as _section
from st_concepts.models._encoder import FirstLayer

NEED_RELU = [m.name for m in METHODS.values() if m.needs_relu]
GROUPS = ["A", "B/C", "D"]


class LinearEncoder:
    """Latent mean ``V x + c``; features are the counts, so every attribution has a closed form."""

    def __init__(self, n_vars: int = 12, n_latent: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.V, self.c = rng.normal(size=(n_latent, n_vars)), rng.normal(size=n_latent)
        self.var_names = pd.Index([f"g{i}" for i in range(n_vars)])
        self.n_latent, self.device, self.fingerprint = n_latent, torch.device("cpu"), f"linear-{seed}"

    @property
    def first_layer(self):
        return FirstLayer(torch.as_tensor(self.V).float(), torch.as_tensor(self.c[None]).float(), nn.Identity())

    def features(self, counts):
        return counts

    def codes(self, obs):
        return None

    def encode(self, features, codes=None):
        return features @ torch.as_tensor(self.V).to(features).T + torch.as_tensor(self.c).to(features)


def section(encoder, n_obs: int = 60, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    X = sp.csr_matrix(rng.poisson(1.0, (n_obs, len(encoder.var_names))).astype(np.float32))
    layer = pd.Categorical(np.array([*GROUPS, None], dtype=object)[rng.integers(0, 4, n_obs)], GROUPS)
    obs = pd.DataFrame({"layer": layer}, index=[f"s{i}" for i in range(n_obs)])
    adata = ad.AnnData(X, obs, pd.DataFrame(index=encoder.var_names))
    with warnings.catch_warnings():
        # labels are random
        warnings.simplefilter("ignore")
        stc.tl.concepts(adata, encoder, groupby="layer", estimator="mean_difference", n_null=0)
    return adata


@pytest.fixture
def linear():
    encoder = LinearEncoder()
    adata = section(encoder)
    x = adata.X.toarray().astype(np.float64)
    inside = adata.obsm["concept_members"].to_numpy() == 1
    outside = adata.obsm["concept_members"].to_numpy() == 0
    made = stc.concepts.read_concepts(adata)
    return SimpleNamespace(
        encoder=encoder,
        adata=adata,
        x=x,
        inside=inside,
        mean_in=np.stack([x[i].mean(0) for i in inside.T]),
        mean_out=np.stack([x[o].mean(0) for o in outside.T]),
        gradient=made.directions @ encoder.V,
    )


@pytest.fixture(scope="module")
def fitted():
    adata = stc.datasets.simulated_bulb(n_obs=150, n_vars=60, n_markers=5, n_smooth=5, seed=0)
    model = stc.SpotVAE(adata, n_latent=4, n_hidden=16).fit(max_epochs=3, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", unlabelled="ignore", n_null=0)
    return adata, model


# -------------------------------------------------------------------------------------------------- known answers


def expected_group(linear, method: str, start: np.ndarray) -> np.ndarray:
    if method in ("gradient", "smoothgrad"):
        return linear.gradient
    if method in ("gradient_x_input", "epsilon_lrp"):
        return linear.gradient * linear.mean_in
    return linear.gradient * (linear.mean_in - start)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in NEED_RELU])
def test_saliency_of_a_linear_encoder_has_a_closed_form(linear, method):
    profile = np.linspace(0, 2, 12)
    stc.tl.saliency(linear.adata, linear.encoder, method=method, baseline=profile)
    found = linear.adata.varm["concept_saliency"]
    assert list(found) == ["A", "B_C", "D"]
    np.testing.assert_allclose(found.to_numpy().T, expected_group(linear, method, profile), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("baseline", "start"),
    [
        ("others", lambda s: s.mean_out),
        ("mean", lambda s: s.x.mean(0)),
        ("zero", lambda s: 0.0),
        ("B/C", lambda s: s.mean_in[1]),
        ("B_C", lambda s: s.mean_in[1]),
    ],
)
def test_baselines(linear, baseline, start):
    stc.tl.saliency(linear.adata, linear.encoder, baseline=baseline)
    expected = linear.gradient * (linear.mean_in - start(linear))
    np.testing.assert_allclose(linear.adata.varm["concept_saliency"].to_numpy().T, expected, rtol=1e-4, atol=1e-5)
    report = linear.adata.uns["concept_saliency"]
    np.testing.assert_allclose(report["attribution_sum"], expected.sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(report["score_difference"], expected.sum(1), rtol=1e-4, atol=1e-5)
    assert report["params"]["baseline"] == baseline


def test_expected_gradients_draw_their_references_outside_the_concept(linear):
    # the mean over all references of a linear encoder; the draws of each spot scatter around it
    options = Options(n_samples=400, seed=1)
    stc.tl.saliency(linear.adata, linear.encoder, method="expected_gradients", options=options)
    expected = linear.gradient * (linear.mean_in - linear.mean_out)
    error = linear.adata.varm["concept_saliency"].to_numpy().T - expected
    assert np.abs(error).max() < 0.03 * np.abs(linear.gradient).max()
    assert linear.adata.uns["concept_saliency"]["params"]["baseline"] == "others"


def test_references_are_few_seeded_and_outside(linear, monkeypatch):
    monkeypatch.setattr(_section, "N_REFERENCES", 5)
    opened = _section.Explained.read(linear.adata, linear.encoder)
    rows = {tuple(r) for r in linear.x[~linear.inside[:, 1]]}
    first, again, other = (opened.references([0, 1], "others", seed) for seed in (0, 0, 1))
    assert [r.shape for r in first] == [(5, 12)] * 2
    assert {tuple(r) for r in first[1].toarray()} <= rows
    assert (first[1] != again[1]).nnz == 0
    assert (first[1] != other[1]).nnz
    # the draw for a concept does not depend on which others are asked for
    assert (opened.references([1], "others", 0)[0] != first[1]).nnz == 0
    assert opened.references([0], "zero", 0)[0].nnz == 0


# ---------------------------------------------------------------------------------- every method, on every model


@pytest.mark.parametrize("method", list(METHODS))
def test_saliency_is_the_mean_of_the_map_on_spot_vae(fitted, method):
    adata, model = fitted[0].copy(), fitted[1]
    options = Options(n_samples=5, n_steps=10, q=80)
    stc.tl.saliency(adata, model, method=method, options=options, concepts="GCL")
    stc.tl.saliency_map(adata, model, concept="GCL", genes="all", method=method, options=options)
    check_mean(adata, "GCL")
    params = adata.uns["concept_saliency_GCL"]["params"]
    assert params["method"] == method
    assert params == adata.uns["concept_saliency"]["params"]


def check_mean(adata, label):
    inside = adata.obsm["concept_members"][label].to_numpy() == 1
    found = np.asarray(adata.layers[f"concept_saliency_{label}"][inside].mean(0)).ravel()
    expected = adata.varm["concept_saliency"][label].to_numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def scvi_model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi = pytest.importorskip("scvi", reason="needs scvi-tools")
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 90)
        x = sp.csr_matrix(rng.poisson(rng.gamma(1.0, 2.0, (3, 20))[labels]).astype(np.float32))
        obs = pd.DataFrame({"layer": np.array(["L1", "L2", "L3"])[labels]}, index=[f"s{i}" for i in range(90)])
        obs["batch"] = pd.Categorical(rng.choice(["a", "b"], 90))
        adata = ad.AnnData(x, obs, pd.DataFrame(index=[f"g{i}" for i in range(20)]))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
            model = scvi.model.SCVI(adata, n_latent=4, n_hidden=16, encode_covariates=True)
            quiet = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
            model.train(max_epochs=2, batch_size=45, **quiet)
        stc.tl.concepts(adata, model, groupby="layer", unlabelled="ignore", n_null=0)
    return adata, model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", list(METHODS))
def test_saliency_is_the_mean_of_the_map_on_scvi(scvi_model, method):
    adata, model = scvi_model[0].copy(), scvi_model[1]
    options = Options(n_samples=5, n_steps=10, q=80)
    stc.tl.saliency(adata, model, method=method, options=options)
    stc.tl.saliency_map(adata, model, concept="L2", genes="all", method=method, options=options)
    check_mean(adata, "L2")


@pytest.mark.parametrize(
    "options", [Options(q=50), Options(tau=0.01), Options(modified=True), Options(propagated_relevance=True)]
)
def test_variants_of_rectgrad_differ_and_are_stored(fitted, options):
    adata, model = fitted[0].copy(), fitted[1]
    stc.tl.saliency(adata, model, method="rectgrad")
    plain = adata.varm["concept_saliency"].copy()
    stc.tl.saliency(adata, model, method="rectgrad", options=options)
    assert not plain.equals(adata.varm["concept_saliency"])
    stored = adata.uns["concept_saliency"]["params"]
    assert all(stored[k] == v for k, v in options.used_by(METHODS["rectgrad"]).items() if v is not None)


@pytest.mark.parametrize("run", [stc.tl.saliency, partial(stc.tl.saliency_map, concept="A", genes="all")])
def test_wrong_names_list_the_right_ones(linear, run):
    with pytest.raises(ValueError, match=r"Unknown attribution method 'gradients'.*integrated_gradients.*occlusion"):
        run(linear.adata, linear.encoder, method="gradients")
    with pytest.raises(ValueError, match=r"baseline='other' is unknown.*'others', 'mean', 'zero'.*A, B/C, D"):
        run(linear.adata, linear.encoder, baseline="other")
    with pytest.raises(ValueError, match="ReLU"):
        run(linear.adata, linear.encoder, method="rectgrad")
    assert "concept_saliency" not in linear.adata.varm
    assert not linear.adata.layers


def test_a_concept_without_others_needs_another_baseline(linear):
    linear.adata.obsm["concept_members"].iloc[:, 0] = 1
    with pytest.raises(ValueError, match="'others' of concept 'A' has no spot to average; use 'mean' or 'zero'"):
        stc.tl.saliency(linear.adata, linear.encoder)


# ----------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input", "gradient"])
def test_map_of_all_genes_equals_that_of_each(linear, method):
    a = linear.adata
    stc.tl.saliency_map(a, linear.encoder, concept="B/C", genes="all", method=method, key_added="all")
    stc.tl.saliency_map(a, linear.encoder, concept="B/C", genes=["g7", "g2", "g7"], method=method)
    found, every = a.layers["concept_saliency_B_C"], a.layers["all"]
    assert sp.issparse(found)
    assert sp.issparse(every) == (method == "gradient_x_input")
    every = every.toarray() if sp.issparse(every) else every
    expected = {
        "integrated_gradients": linear.gradient[1] * (linear.x - linear.mean_out[1]),
        "gradient_x_input": linear.gradient[1] * linear.x,
        "gradient": np.tile(linear.gradient[1], (60, 1)),
    }[method]
    np.testing.assert_allclose(every, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.toarray()[:, [2, 7]], every[:, [2, 7]], rtol=1e-6)
    assert not np.delete(found.toarray(), [2, 7], axis=1).any()


def test_genes_in_another_order_and_beyond_the_model(linear):
    a = linear.adata[:, ["g5", "g3", *[f"g{i}" for i in range(6, 12)], "g0", "g1", "g2", "g4"]].copy()
    extra = ad.AnnData(sp.csr_matrix(np.ones((60, 1), dtype=np.float32)), a.obs, pd.DataFrame(index=["other"]))
    wide = ad.concat([extra, a], axis=1, merge="same")
    wide.uns, wide.obsm = a.uns, a.obsm
    stc.tl.saliency_map(wide, linear.encoder, concept="A", genes="all", method="gradient")
    found = wide.layers["concept_saliency_A"]
    assert not found[:, 0].any()
    columns = linear.encoder.var_names.get_indexer(wide.var_names[1:])
    np.testing.assert_allclose(found[0, 1:], linear.gradient[0][columns], rtol=1e-5)
    with pytest.raises(KeyError, match="not in the model: other"):
        stc.tl.saliency_map(wide, linear.encoder, concept="A", genes=["other"])


@pytest.mark.parametrize("method", ["smoothgrad", "expected_gradients"])
def test_draws_do_not_depend_on_batches(fitted, monkeypatch, method):
    adata, model = fitted[0].copy(), fitted[1]
    options = Options(n_samples=3)
    real = _section.Explained.batches
    for name, size in (("whole", 1000), ("parts", 40)):
        monkeypatch.setattr(
            _section.Explained, "batches", lambda self, size=size, **kw: real(self, batch_size=size, **kw)
        )
        stc.tl.saliency_map(
            adata, model, concept="GL", genes="all", method=method, options=options, key_added=name, baseline="zero"
        )
    np.testing.assert_allclose(adata.layers["whole"], adata.layers["parts"], rtol=1e-3, atol=1e-6)
    assert np.ptp(adata.layers["whole"], axis=0).max() > 0


def test_completeness_of_a_map_is_stored(linear):
    stc.tl.saliency_map(linear.adata, linear.encoder, concept="D", genes=["g0"])
    report = linear.adata.uns["concept_saliency_D"]
    expected = (linear.gradient[2] * (linear.x.mean(0) - linear.mean_out[2])).sum()
    assert report["concept"] == "D"
    assert report["attribution_sum"] == pytest.approx(expected, rel=1e-4)
    assert report["score_difference"] == pytest.approx(expected, rel=1e-4)


def test_no_genes_is_an_error(linear):
    with pytest.raises(ValueError, match="genes='all'"):
        stc.tl.saliency_map(linear.adata, linear.encoder, concept="A", genes=None)
    with pytest.raises(ValueError, match="genes is empty"):
        stc.tl.saliency_map(linear.adata, linear.encoder, concept="A", genes=[])


def test_beyond_the_budget_a_store_is_asked_for(linear):
    a = linear.adata
    run = partial(stc.tl.saliency_map, a, linear.encoder, concept="A", genes="all")
    size = 4 * 60 * 12
    with pytest.raises(ValueError, match=r"2\.8 KiB, more than memory_budget=.*store='concept_saliency_A\.zarr'"):
        run(memory_budget=size - 1)
    assert not a.layers
    run(memory_budget=size)
    # sparse maps take 8 bytes for each nonzero count
    run(memory_budget=8 * a.X.nnz, method="gradient_x_input")
    with pytest.raises(ValueError, match="Pass store="):
        run(memory_budget=8 * a.X.nnz - 1, method="gradient_x_input")
    # and so do chosen genes
    with pytest.raises(ValueError, match="2 genes at 60 spots"):
        stc.tl.saliency_map(a, linear.encoder, concept="A", genes=["g1", "g2"], memory_budget=8 * 120 - 1)


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
def test_a_store_holds_what_memory_would(linear, tmp_path, monkeypatch, method):
    real = _section.Explained.batches
    monkeypatch.setattr(_section.Explained, "batches", lambda self, **kw: real(self, batch_size=25, **kw))
    a = linear.adata
    stc.tl.saliency_map(a, linear.encoder, concept="B/C", genes="all", method=method, key_added="memory")
    path = tmp_path / "new" / "map.zarr"
    stc.tl.saliency_map(a, linear.encoder, concept="B/C", genes="all", method=method, memory_budget=1, store=path)
    assert [p.name for p in path.parent.iterdir()] == ["map.zarr"]
    import zarr

    stored = ad.io.read_elem(zarr.open_group(str(path), mode="r")["concept_saliency_B_C"])
    assert sp.issparse(stored) == sp.issparse(a.layers["memory"]) == (method == "gradient_x_input")
    equal(stored, a.layers["memory"])
    equal(a.layers["concept_saliency_B_C"].compute(), a.layers["memory"])
    # a lazy layer is a layer: it is cut, copied and written
    equal(a[10:20, :5].copy().layers["concept_saliency_B_C"].compute(), a.layers["memory"][10:20, :5])
    a.write_h5ad(tmp_path / "a.h5ad")
    equal(ad.read_h5ad(tmp_path / "a.h5ad").layers["concept_saliency_B_C"], a.layers["memory"])
    with pytest.raises(FileExistsError, match="exists already"):
        stc.tl.saliency_map(a, linear.encoder, concept="B/C", genes="all", store=path)


def equal(found, expected):
    dense = [m.toarray() if sp.issparse(m) else np.asarray(m) for m in (found, expected)]
    np.testing.assert_array_equal(*dense)


def test_an_interrupted_store_leaves_nothing(tmp_path):
    def interrupted():
        with LayerWriter(tmp_path / "a.zarr", "map", (4, 3), sparse=False) as writer:
            writer.append(np.ones((2, 3), dtype=np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_what_is_written_survives_the_disk(linear, tmp_path):
    a = linear.adata
    stc.tl.saliency(a, linear.encoder, method="occlusion")
    stc.tl.saliency_map(a, linear.encoder, concept="B/C", genes=["g1"])
    a.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.varm["concept_saliency"], a.varm["concept_saliency"])
    for key in ("concept_saliency", "concept_saliency_B_C"):
        assert {k: str(v) for k, v in back.uns[key]["params"].items()} == {
            k: str(v) for k, v in a.uns[key]["params"].items()
        }
    equal(back.layers["concept_saliency_B_C"], a.layers["concept_saliency_B_C"])


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
def test_a_map_on_the_disk_is_drawn(tmp_path, method):
    adata = stc.datasets.simulated_bulb(n_obs=120, n_vars=40, n_markers=3, n_smooth=3, seed=0)
    model = stc.SpotVAE(adata, n_latent=4).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", unlabelled="ignore", n_null=0)
    store = tmp_path / "map.zarr"
    stc.tl.saliency_map(adata, model, concept="GCL", genes="all", method=method, store=store)
    axes = stc.pl.saliency_map(adata, concept="GCL", genes=list(adata.var_names[:2]), show=False)
    assert [ax.get_title() for ax in axes] == [f"{g} for GCL" for g in adata.var_names[:2]]
    plt.close("all")
