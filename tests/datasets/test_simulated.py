from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import KDTree

from st_concepts.datasets import simulated_bulb
from st_concepts.datasets._simulated import _field, _negative_binomial

LAYERS = ["ONL", "GL", "OPL", "MCL", "GCL"]


def assert_same(a: ad.AnnData, b: ad.AnnData) -> None:
    assert a.X.dtype == b.X.dtype
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(a.X, part), getattr(b.X, part))
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])


def proportions(adata: ad.AnnData) -> np.ndarray:
    x = adata.X.toarray().astype(np.float64)
    return x / adata.obs["true_depth"].to_numpy()[:, None]


def test_contents(simulated):
    assert simulated.shape == (300, 200)
    assert isinstance(simulated.X, sp.csr_matrix)
    assert simulated.X.dtype == np.float32
    assert simulated.X.has_sorted_indices
    assert (simulated.X.data > 0).all()
    assert (simulated.X.data == np.rint(simulated.X.data)).all()
    layer = simulated.obs["layer"]
    assert layer.cat.ordered
    assert layer.cat.categories.tolist() == LAYERS
    assert layer.value_counts(sort=False).tolist() == [45, 99, 36, 30, 90]
    var = simulated.var
    assert var["kind"].value_counts().to_dict() == {"iid": 130, "marker": 50, "smooth": 20}
    assert var["marker_of"].value_counts().to_dict() == dict.fromkeys(LAYERS, 10)
    assert (var["marker_of"].notna() == (var["kind"] == "marker")).all()
    assert (var["log_fold_change"][var["kind"] != "marker"] == 0).all()
    assert var["log_fold_change"][var["kind"] == "marker"].between(0.7, 1.3).all()
    assert var["base"].sum() == pytest.approx(1)
    assert simulated.obs_names.is_unique
    assert var.index.is_unique
    marker = var.index[var["marker_of"] == "GCL"]
    assert marker.str.startswith("GCL-marker").all()


def test_layers_are_rings():
    adata = simulated_bulb(n_obs=1000, n_vars=60, n_markers=2, seed=4)
    xy = adata.obsm["spatial"]
    depth = adata.obs["layer"].cat.codes.to_numpy()
    # farther out means nearer to the surface
    radius = np.linalg.norm(xy - xy.mean(axis=0), axis=1)
    mean = [radius[depth == k].mean() for k in range(5)]
    assert (np.diff(mean) < 0).all()
    # a neighbour is in the same or an adjoining layer, but for the thinnest one, which a step may cross
    _, near = KDTree(xy).query(xy, k=7)
    assert np.abs(depth[near[:, 1:]] - depth[:, None]).max() <= 2
    assert (np.abs(depth[near[:, 1:]] - depth[:, None]) == 2).mean() < 0.05


@pytest.mark.parametrize(("grid", "neighbours", "distance"), [("hex", 6, 1.0), ("square", 4, 1.0)])
def test_grids_are_regular(grid, neighbours, distance):
    xy = simulated_bulb(n_obs=400, n_vars=30, n_markers=1, grid=grid).obsm["spatial"]
    tree = KDTree(xy)
    count = np.array([len(n) - 1 for n in tree.query_ball_point(xy, distance + 1e-6)])
    assert count.max() == neighbours
    assert np.median(count) == neighbours
    assert tree.query(xy, k=2)[0][:, 1].min() == pytest.approx(distance)


def test_same_seed_same_bits_and_other_seed_other_bits():
    settings_ = {"n_obs": 150, "n_vars": 300, "n_markers": 5, "n_sections": 2, "unlabelled": 0.2}
    a = simulated_bulb(**settings_, seed=7)
    assert_same(a, simulated_bulb(**settings_, seed=7))
    b = simulated_bulb(**settings_, seed=8)
    assert (a.X != b.X).nnz > 0
    assert a.var_names.tolist() != b.var_names.tolist()


def test_the_global_random_state_is_left_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    simulated_bulb(n_obs=50, n_vars=30, n_markers=1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_counts_are_negative_binomial():
    """Distribution of the compound-Poisson draw against scipy's negative binomial."""
    rng = np.random.default_rng(0)
    n = 40_000
    for mean, theta in ((0.05, 3.0), (0.8, 0.5), (6.0, 4.0), (150.0, 10.0)):
        x = _negative_binomial(np.full((n, 1), mean), np.array([theta]), rng).toarray().ravel()
        law = stats.nbinom(theta, theta / (theta + mean))
        edges = np.unique(law.ppf([0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])).clip(-1, 1e9)
        observed = np.histogram(x, bins=edges + 0.5)[0]
        expected = n * np.diff(law.cdf(edges))
        observed, expected = observed[expected > 0], expected[expected > 0]
        assert observed.sum() == n
        if len(observed) > 1:
            assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-4
        assert x.mean() == pytest.approx(mean, abs=5 * np.sqrt((mean + mean**2 / theta) / n))


def test_means_of_spots_differ_as_asked_within_a_gene():
    rng = np.random.default_rng(1)
    mean = np.repeat([[0.5], [2.0], [8.0]], 20_000, axis=0)
    x = _negative_binomial(mean, np.array([5.0]), rng).toarray().reshape(3, -1)
    np.testing.assert_allclose(x.mean(axis=1), [0.5, 2, 8], rtol=0.03)
    np.testing.assert_allclose(x.var(axis=1), [0.55, 2.8, 20.8], rtol=0.06)


def test_markers_have_their_planted_fold_change():
    adata = simulated_bulb(n_obs=4000, n_vars=150, n_markers=6, n_smooth=0, seed=2, density=0.8, effect=1.0)
    p = proportions(adata)
    layer = adata.obs["layer"].to_numpy()
    for j in np.flatnonzero(adata.var["kind"] == "marker"):
        here = layer == adata.var["marker_of"].iloc[j]
        found = np.log(p[here, j].mean() / p[~here, j].mean())
        assert found == pytest.approx(adata.var["log_fold_change"].iloc[j], abs=0.15)
    # elsewhere a gene is at its base level
    iid = (adata.var["kind"] == "iid").to_numpy() & (adata.var["base"] > 1e-3).to_numpy()
    np.testing.assert_allclose(p[:, iid].mean(axis=0) / adata.var["base"][iid], 1.0, atol=0.15)


def test_markers_stand_out_and_others_do_not(simulated):
    """Wilcoxon on size-normalised counts: most markers are found, iid genes are rejected at about the nominal rate."""
    p = proportions(simulated)
    layer = simulated.obs["layer"].to_numpy()
    rejected = np.array(
        [
            [stats.mannwhitneyu(p[layer == k, j], p[layer != k, j]).pvalue < 0.05 for k in LAYERS]
            for j in range(simulated.n_vars)
        ]
    )
    own = simulated.var["marker_of"].cat.codes.to_numpy()
    marker = own >= 0
    assert rejected[marker, own[marker]].mean() > 0.8
    iid = (simulated.var["kind"] == "iid").to_numpy()
    assert rejected[iid].mean() < 0.08


def test_depth_tells_nothing_about_the_layer():
    adata = simulated_bulb(n_obs=3000, n_vars=200, n_smooth=0, depth_sd=0.0, seed=3)
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    groups = [total[adata.obs["layer"] == k] for k in LAYERS]
    assert stats.f_oneway(*groups).pvalue > 1e-3
    # the same markers without balance would shift the totals of a layer by far more
    assert np.ptp([g.mean() for g in groups]) / total.mean() < 0.05


def moran(x: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Moran's I with six neighbours, columns of x."""
    _, near = KDTree(xy).query(xy, k=7)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    return (z[:, None] * z[near[:, 1:]]).mean(axis=(0, 1))


def test_smooth_genes_are_smooth_and_iid_genes_are_not():
    adata = simulated_bulb(n_obs=900, n_vars=200, n_markers=4, n_smooth=60, smooth_sd=1.0, density=0.6, seed=5)
    values = moran(np.log1p(proportions(adata) * 1e4), adata.obsm["spatial"])
    kind = adata.var["kind"].to_numpy()
    seen = adata.var["base"].to_numpy() > 2e-4
    assert np.median(values[kind == "smooth"]) > 0.15
    assert np.median(np.abs(values[(kind == "iid") & seen])) < 0.05


def test_smooth_fields_have_unit_variance_and_the_asked_length_scale():
    rng = np.random.default_rng(0)
    x = np.zeros((3, 2))
    x[1:, 0] = 0.35, 0.7
    field = _field(x, 24_000, 0.35, rng)
    # the Gaussian kernel exp(-d^2 / 2 scale^2)
    np.testing.assert_allclose(np.cov(field)[0], np.exp([0, -0.5, -2.0]), atol=0.04)


@pytest.mark.parametrize("density", [0.05, 0.25, 0.6])
def test_density_is_met(density):
    adata = simulated_bulb(n_obs=800, n_vars=600, density=density, seed=6)
    assert adata.X.nnz / np.prod(adata.shape) == pytest.approx(density, rel=0.1)


def test_sections_are_apart_and_differ():
    adata = simulated_bulb(n_obs=601, n_vars=200, n_sections=3, seed=1, section_sd=0.5)
    section = adata.obs["section"]
    assert section.value_counts(sort=False).to_dict() == {"sim_1": 201, "sim_2": 200, "sim_3": 200}
    xy = adata.obsm["spatial"]
    for name in section.cat.categories:
        here = (section == name).to_numpy()
        assert KDTree(xy[here]).query(xy[~here])[0].min() > 2
        assert set(adata.obs["layer"][here]) == set(LAYERS)
    p = pd.DataFrame(proportions(adata)).groupby(section.to_numpy()).mean().to_numpy()
    strong = (p > 2e-3).all(axis=0) & (adata.var["kind"] == "iid").to_numpy()
    assert strong.sum() > 10
    assert np.log(p[1, strong] / p[0, strong]).std() == pytest.approx(0.5 * np.sqrt(2), rel=0.4)


def test_unlabelled_spots_keep_their_truth():
    adata = simulated_bulb(n_obs=200, n_vars=60, n_markers=2, unlabelled=0.3)
    assert adata.obs["layer"].isna().sum() == 60
    assert adata.obs["true_layer"].notna().all()
    known = adata.obs["layer"].notna()
    assert (adata.obs["layer"][known] == adata.obs["true_layer"][known]).all()


@settings(max_examples=25, deadline=None)
@given(
    n_obs=st.integers(75, 160),
    n_vars=st.integers(1, 300),
    n_sections=st.integers(1, 3),
    n_markers=st.integers(0, 3),
    seed=st.integers(0, 2**40),
    grid=st.sampled_from(["hex", "square"]),
)
def test_any_shape_is_delivered(n_obs, n_vars, n_sections, n_markers, seed, grid):
    n_vars = max(n_vars, 5 * n_markers)
    adata = simulated_bulb(n_obs, n_vars, seed=seed, n_sections=n_sections, n_markers=n_markers, grid=grid)
    assert adata.shape == (n_obs, n_vars)
    counts = adata.obs.groupby(["section", "layer"], observed=True).size()
    assert len(counts) == 5 * n_sections
    assert counts.min() >= 1
    assert len(np.unique(adata.obsm["spatial"].round(6), axis=0)) == n_obs


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_obs": 20}, "`n_obs` must be at least 25"),
        ({"n_obs": 40, "n_sections": 2}, "`n_obs` must be at least 50"),
        ({"n_sections": 0}, "`n_sections` must be at least 1"),
        ({"n_vars": 10}, "do not hold 5 x 20 markers"),
        ({"n_smooth": 2000}, "2000 smooth"),
        ({"n_smooth": -1}, "smooth"),
        ({"density": 0.0}, "`density`"),
        ({"density": 1.0}, "`density`"),
        ({"density": float("nan")}, "`density`"),
        ({"depth_sd": -0.1}, "`depth_sd`"),
        ({"smooth_scale": 0}, "`smooth_scale`"),
        ({"unlabelled": 1}, "`unlabelled`"),
        ({"grid": "triangle"}, "'hex' or 'square'"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        simulated_bulb(**bad)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_round_trips_are_exact(tmp_path, kind):
    adata = simulated_bulb(n_obs=60, n_vars=40, n_markers=2, unlabelled=0.1)
    path = tmp_path / f"sim.{kind}"
    with warnings.catch_warnings():
        # zarr warns of its own format's future
        warnings.simplefilter("ignore")
        getattr(adata, f"write_{kind}")(path)
        back = getattr(ad, f"read_{kind}")(path)
    assert_same(back, adata)
    assert back.uns["simulation"] == adata.uns["simulation"]
    np.testing.assert_array_equal(back.uns["layer_colors"], adata.uns["layer_colors"])


def test_sparse_generation_stays_small():
    """4,000 x 2,000 at 5%: the peak of new memory is far below that of one dense float64 matrix (64 MB)."""
    import tracemalloc

    tracemalloc.start()
    try:
        adata = simulated_bulb(n_obs=4000, n_vars=2000, density=0.05)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert adata.X.nnz / np.prod(adata.shape) == pytest.approx(0.05, rel=0.1)
    assert peak < 45e6
