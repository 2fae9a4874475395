"""Counts split in two: exact sums, means, and independence where the overdispersion is right."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.cluster import KMeans

import st_concepts as stc
from st_concepts._counts.split import estimate_overdispersion
from st_concepts._results import found_slots, remove
from st_concepts.cli import main
from st_concepts.cli._pipeline import drop_results

CLUSTER, TEST = "counts_cluster", "counts_test"
FORMS = {
    "dense": np.asarray,
    "csr matrix": sp.csr_matrix,
    "csc matrix": sp.csc_matrix,
    "csr array": sp.csr_array,
    "csc array": sp.csc_array,
}


def dense(matrix: object) -> np.ndarray:
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)


def parts(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    return dense(adata.layers[CLUSTER]).astype(float), dense(adata.layers[TEST]).astype(float)


def covariances(counts: np.ndarray, **options: object) -> np.ndarray:
    """Covariance of the two parts of each gene over the spots, in units of a part's Poisson variance."""
    adata = AnnData(counts.astype(np.float32))
    stc.pp.split_counts(adata, **options)
    a, b = parts(adata)
    return ((a - a.mean(0)) * (b - b.mean(0))).mean(0) / (counts.mean(0) / 2)


@settings(max_examples=40, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    dtype=st.sampled_from(["uint8", "int32", "int64", "uint16", "float32", "float64"]),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 6)),
    overdispersion=st.sampled_from([0.0, 0.3, 50.0, "estimate", "shared"]),
    fraction=st.sampled_from([0.01, 0.5, 0.8]),
    seed=st.integers(0, 2**32),
)
def test_the_parts_sum_to_the_whole(form, dtype, shape, overdispersion, fraction, seed) -> None:
    rng = np.random.default_rng(seed)
    counts = (rng.poisson(3, size=shape) * rng.integers(0, 20, size=shape)).clip(0, 255).astype(dtype)
    adata = AnnData(FORMS[form](counts.copy()))
    stc.pp.split_counts(adata, overdispersion=overdispersion, fraction=fraction, seed=seed)
    a, b = adata.layers[CLUSTER], adata.layers[TEST]
    for part in (a, b):
        assert type(part) is type(adata.X)
        assert part.dtype == dtype
        assert (dense(part) >= 0).all()
        assert not sp.issparse(part) or part.nnz == (dense(part) > 0).sum()
    assert np.array_equal(dense(a) + dense(b), counts)
    assert np.array_equal(dense(adata.X), counts)
    # however they are stored, the same parts
    other = AnnData(counts)
    stc.pp.split_counts(other, overdispersion=overdispersion, fraction=fraction, seed=seed)
    assert np.array_equal(other.layers[CLUSTER], dense(a))


@pytest.mark.parametrize("overdispersion", [0.0, 0.5])
@pytest.mark.parametrize("fraction", [0.5, 0.2])
def test_means(fraction: float, overdispersion: float) -> None:
    counts = np.random.default_rng(0).poisson(10, size=(400, 50)).astype(np.float32)
    adata = AnnData(counts)
    stc.pp.split_counts(adata, fraction=fraction, overdispersion=overdispersion)
    a, b = parts(adata)
    assert a.mean() / counts.mean() == pytest.approx(fraction, abs=0.01)
    assert b.mean() / counts.mean() == pytest.approx(1 - fraction, abs=0.01)


def test_poisson_counts_split_one_by_one_are_independent() -> None:
    counts = np.random.default_rng(1).poisson(4, size=(2000, 100))
    # the mean of 100 covariances of 2000 pairs has a standard error of 0.0022
    assert abs(covariances(counts).mean()) < 0.01
    # what is wrongly taken for overdispersed becomes negatively correlated
    assert covariances(counts, overdispersion=0.5).mean() < -0.3


def test_overdispersed_counts_need_their_overdispersion() -> None:
    mean, theta = 8.0, 2.0
    counts = np.random.default_rng(2).negative_binomial(theta, theta / (theta + mean), size=(4000, 100))
    known = covariances(counts, overdispersion=1 / theta).mean()
    assert abs(known) < 0.05
    assert abs(covariances(counts, overdispersion=np.full(100, 1 / theta)).mean() - known) < 0.05
    # of the counts' variance m + m^2 / theta, the binomial leaves m^2 / theta to both: a covariance of m / (2 theta)
    assert covariances(counts).mean() == pytest.approx(mean / (2 * theta), rel=0.1)
    for estimate in ("estimate", "shared"):
        assert abs(covariances(counts, overdispersion=estimate).mean()) < 0.1


def test_the_parts_of_negative_binomial_counts_are_such() -> None:
    theta = 1.5
    counts = np.random.default_rng(3).negative_binomial(theta, theta / (theta + 6), size=(200_000, 1))
    adata = AnnData(counts.astype(np.int32))
    stc.pp.split_counts(adata, overdispersion=1 / theta, fraction=0.3)
    for part, share in zip(parts(adata), (0.3, 0.7), strict=True):
        expected = np.random.default_rng(4).negative_binomial(share * theta, theta / (theta + 6), size=200_000)
        seen, wanted = (np.bincount(x.astype(int).ravel(), minlength=60)[:60] / len(counts) for x in (part, expected))
        np.testing.assert_allclose(seen, wanted, atol=0.006)


def test_moments_find_the_overdispersion_at_any_depth() -> None:
    rng = np.random.default_rng(5)
    alpha = np.repeat([0.0, 0.2, 1.0], 60)
    mean = rng.uniform(2, 10, size=180) * rng.gamma(5, 1 / 5, size=(3000, 1))
    size = np.where(alpha, 1 / np.maximum(alpha, 1e-9), 1.0)
    counts = np.where(alpha, rng.negative_binomial(size, size / (size + mean)), rng.poisson(mean))
    found = estimate_overdispersion(sp.csr_matrix(counts, dtype=np.float32))
    for value in (0.0, 0.2, 1.0):
        assert found[alpha == value].mean() == pytest.approx(value, abs=0.05)
    one = estimate_overdispersion(sp.csr_matrix(counts[:, alpha == 0.2], dtype=np.float32), shared=True)
    assert one[0] == pytest.approx(0.2, abs=0.03)
    assert (one == one[0]).all()


def test_a_series_is_taken_by_gene() -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=100, seed=0)
    values = pd.Series(np.linspace(0, 2, 100), index=adata.var_names)
    stc.pp.split_counts(adata, overdispersion=values[::-1])
    np.testing.assert_allclose(adata.varm["counts_split"]["overdispersion"], values)
    assert adata.uns["counts_split"]["params"]["overdispersion"] == "given"
    with pytest.raises(KeyError, match="lacks 1 of 100 genes"):
        stc.pp.split_counts(adata, overdispersion=values[1:])
    stc.pp.split_counts(adata, overdispersion=1)
    assert "counts_split" not in adata.varm  # of the split before
    assert adata.uns["counts_split"]["params"]["overdispersion"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0}, "fraction=0 must lie between"),
        ({"fraction": 1.0}, "must lie between"),
        ({"fraction": float("nan")}, "must lie between"),
        ({"overdispersion": -1}, "at least 0"),
        ({"overdispersion": float("inf")}, "finite"),
        ({"overdispersion": [1.0, 2.0]}, r"shape \(2,\)"),
        ({"overdispersion": "moments"}, "'estimate', 'shared'"),
        ({"layer": "counts_test"}, "written over"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    adata = AnnData(np.ones((4, 3), dtype=np.float32), layers={"counts_test": np.ones((4, 3), dtype=np.float32)})
    with pytest.raises(ValueError, match=message):
        stc.pp.split_counts(adata, **options)
    assert list(adata.layers) == ["counts_test"]
    assert not adata.uns


def test_what_are_no_counts_is_refused_before_anything_is_written() -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=100, seed=0)
    adata.layers["raw"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    before = set(adata.layers)
    with pytest.raises(ValueError, match=r"raw counts are needed.*log-normalised.*layer='raw'"):
        stc.pp.split_counts(adata)
    assert set(adata.layers) == before
    assert found_slots(adata) == []
    stc.pp.split_counts(adata, layer="raw")
    assert (adata.layers[CLUSTER] + adata.layers[TEST] != adata.layers["raw"]).nnz == 0
    with pytest.raises(KeyError, match="'nothing' is not in adata"):
        stc.pp.split_counts(adata, layer="nothing")


def test_counts_on_the_disk_are_refused(tmp_path: Path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=100, seed=0)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"stay on the disk.*to_memory"):
        stc.pp.split_counts(backed)
    assert not backed.layers
    backed.file.close()
    da = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match=r"stay on the disk.*to_memory"):
        stc.pp.split_counts(AnnData(da.from_array(adata.X.toarray(), chunks=(20, 100))))


def test_a_view_and_a_copy() -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=100, seed=0)
    made = stc.pp.split_counts(adata[:30], copy=True)
    assert made.shape == (30, 100)
    assert type(made.layers[TEST]) is type(adata.X)
    assert (made.layers[CLUSTER] + made.layers[TEST] != adata.X[:30]).nnz == 0
    assert not adata.layers


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning", "ignore:Consolidated metadata:UserWarning")
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("overdispersion", [0.0, "estimate"])
def test_round_trip_and_removal(tmp_path: Path, form: str, overdispersion: float | str) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=100, seed=0)
    stc.pp.split_counts(adata, overdispersion=overdispersion)
    stc.pp.split_counts(adata, overdispersion=overdispersion, key_added="again", seed=1)
    path = tmp_path / f"a.{form}"
    getattr(adata, f"write_{form}")(path)
    back = getattr(ad, f"read_{form}")(path)
    for name in (CLUSTER, TEST, "again_cluster", "again_test"):
        assert back.layers[name].dtype == adata.layers[name].dtype
        assert (back.layers[name] != adata.layers[name]).nnz == 0
    assert dict(back.uns["counts_split"]["params"]) == adata.uns["counts_split"]["params"]
    # a run of the command line reads the parts, so it leaves them; who wants them gone finds all of them
    assert drop_results(back) == []
    n_tables = 2 * (overdispersion == "estimate")
    assert len(remove(back, found_slots(back))) == 6 + n_tables
    assert not back.layers
    assert "again_split" not in back.uns


def share_below(counts: np.ndarray, groups: np.ndarray) -> float:
    """Share of genes with p < 0.05 between group 0 and the others, by Wilcoxon."""
    p = mannwhitneyu(counts[groups == 0], counts[groups != 0], axis=0, method="asymptotic").pvalue
    return float(np.mean(p < 0.05))


def test_groups_without_structure_are_none_in_the_other_part() -> None:
    same, held_out, binomial = [], [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        mean = rng.uniform(2, 12, size=150)
        counts = AnnData(rng.negative_binomial(4, 4 / (4 + mean), size=(400, 150)).astype(np.float32))
        for overdispersion, figures in ((0.25, held_out), (0.0, binomial)):
            stc.pp.split_counts(counts, overdispersion=overdispersion, seed=seed)
            a, b = parts(counts)
            found = KMeans(2, n_init=2, random_state=0).fit_predict(np.log1p(a))
            figures.append(share_below(b, found))
        whole = np.asarray(counts.X)
        same.append(share_below(whole, KMeans(2, n_init=2, random_state=0).fit_predict(np.log1p(whole))))
    assert np.mean(same) > 0.3
    # 600 genes at 5%: a standard error of 0.9%
    assert np.mean(held_out) == pytest.approx(0.05, abs=0.025)
    assert np.mean(binomial) > 2 * np.mean(held_out)


def test_a_run_reads_the_part_that_it_is_told(tmp_path: Path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=80, n_vars=100, seed=0)
    stc.pp.split_counts(adata)
    source, out = tmp_path / "a.h5ad", tmp_path / "out.h5ad"
    adata.write_h5ad(source)
    options = ["--layer", TEST, "--groupby", "layer", "--max-epochs", "0", "--n-latent", "3", "--null", "none"]
    with pytest.raises(SystemExit) as left:
        main(["run", str(source), *options, "--out", str(out)])
    assert left.value.code == 0
    back = ad.read_h5ad(out)
    assert back.uns["concepts"]["params"]["layer"] == TEST
    assert (back.layers[CLUSTER] != adata.layers[CLUSTER]).nnz == 0
