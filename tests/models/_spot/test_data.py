from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem

from st_concepts import SpotVAE
from st_concepts._counts.features import log_normalize
from st_concepts.models._spot import data as _spot_data
from st_concepts.models._spot.data import Source, SpotData
from st_concepts.models._spot.histogram import CountHistogram


def _counts(n: int = 260, g: int = 40, seed: int = 0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    rate = rng.gamma(1.0, 1.0, (4, g))[rng.integers(0, 4, n)] * rng.gamma(4.0, 0.5, (n, 1))
    counts = rng.poisson(rate).astype(np.float32)
    counts[[3, 77]] = 0  # empty spots
    return sp.csr_matrix(counts)


def _source(X, codes: np.ndarray | None = None) -> Source:
    names = pd.Index([f"g{i}" for i in range(X.shape[1])])
    return Source(X, codes, 1 if codes is None else int(codes.max()) + 1, 40.0, names, "adata.X")


@pytest.fixture
def small(monkeypatch) -> None:
    """Sizes at which a toy is large: blocks are read again and again, few are shuffled together."""
    monkeypatch.setattr(_spot_data, "BLOCK", 16)
    monkeypatch.setattr(_spot_data, "KEPT", 0)
    monkeypatch.setattr(_spot_data, "SAMPLE", 60)
    monkeypatch.setattr(_spot_data, "_BUFFER_BLOCKS", (3, 3))


@pytest.mark.parametrize("streamed", [False, True])
def test_molecules_are_either_fitted_or_held_out(streamed, request) -> None:
    if streamed:
        request.getfixturevalue("small")
    counts = _counts()
    data = SpotData(_source(counts), fraction=0.3, seed=1)
    assert data.kept != streamed
    train = sp.vstack([part.csr("counts") for part in data.blocks()])
    used = np.flatnonzero(np.asarray(counts.sum(1)).ravel() > 0)
    assert data.n_obs == len(used) == train.shape[0]
    judged = np.isin(used, data._judged)
    total = train.toarray()
    np.testing.assert_array_equal(total[judged], data.sample.csr("counts").toarray())
    total[judged] += data.held_out.toarray()
    np.testing.assert_array_equal(total, counts[used].toarray())
    assert 0.2 < data.held_out.sum() / counts[used[judged]].sum() < 0.4
    assert (data.held_out.data > 0).all()
    assert (train.data > 0).all()


@pytest.mark.parametrize("streamed", [False, True])
def test_sums_of_the_survey(streamed, request) -> None:
    if streamed:
        request.getfixturevalue("small")
    codes = np.random.default_rng(0).integers(0, 3, 260)
    data = SpotData(_source(_counts(), codes), fraction=0.3, seed=1)
    parts = list(data.blocks())
    train, where = sp.vstack([p.csr("counts") for p in parts]), np.concatenate([p.codes for p in parts])
    features = log_normalize(train, 40.0)
    np.testing.assert_allclose(sp.vstack([p.csr() for p in parts]).toarray(), features.toarray())
    for s in range(3):
        np.testing.assert_array_equal(data.gene_totals[s], train[where == s].toarray().sum(0))
        np.testing.assert_allclose(
            data.feature_sums[s], features[where == s].toarray().sum(0, dtype=np.float64), rtol=1e-6
        )
    assert data.nnz == train.nnz
    log_theta = torch.linspace(-1, 2, 40)
    want = CountHistogram.of(train).log_likelihood(log_theta)
    torch.testing.assert_close(data.histogram.log_likelihood(log_theta), want)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("batch_size", [7, 16, 500])
def test_an_epoch_meets_every_spot_once_and_can_begin_in_its_middle(streamed, batch_size, request) -> None:
    if streamed:
        request.getfixturevalue("small")
    data = SpotData(_source(_counts()), fraction=0.0, seed=0)
    batches = [p.csr("counts").toarray() for p in data.ordered(np.random.default_rng(5), batch_size)]
    assert all(len(b) <= batch_size for b in batches)
    met = np.concatenate(batches)
    want = np.concatenate([p.csr("counts").toarray() for p in data.blocks()])
    assert not np.array_equal(met, want)
    np.testing.assert_array_equal(met[np.lexsort(met.T)], want[np.lexsort(want.T)])
    for skip in (0, 1, len(batches) // 2, len(batches) - 1, len(batches)):
        rest = [p.csr("counts").toarray() for p in data.ordered(np.random.default_rng(5), batch_size, skip)]
        assert len(rest) == len(batches) - skip
        assert all(np.array_equal(a, b) for a, b in zip(rest, batches[skip:], strict=True))


def test_columns_are_turned_into_rows_once(small) -> None:
    data = SpotData(_source(_counts().tocsc()), fraction=0.1, seed=0)
    assert data.source.X.format == "csr"


def test_a_stream_is_mixed_across_blocks(small) -> None:
    X = sp.csr_matrix((np.arange(320) // 16 + 1.0).astype(np.float32)[:, None] * np.ones((1, 2), dtype=np.float32))
    data = SpotData(_source(X), fraction=0.0, seed=0)
    first = next(data.ordered(np.random.default_rng(0), 12))
    assert len(np.unique(first.counts)) > 1


def test_what_is_no_count_is_named(small) -> None:
    counts = _counts()
    counts.data[-1] = 0.5
    with pytest.raises(ValueError, match=r"adata\.X holds non-integer values \(gene 'g3\d'"):
        SpotData(_source(counts), fraction=0.1, seed=0)


def _stored(kind: str, adata: AnnData, folder) -> AnnData:
    if kind == "csc":
        return AnnData(adata.X.tocsc(), obs=adata.obs, var=adata.var)
    if kind == "backed":
        adata.write_h5ad(folder / "a.h5ad")
        return ad.read_h5ad(folder / "a.h5ad", backed="r")
    if kind == "backed dense":
        AnnData(adata.X.toarray(), obs=adata.obs, var=adata.var).write_h5ad(folder / "d.h5ad")
        return ad.read_h5ad(folder / "d.h5ad", backed="r")
    if kind == "zarr":
        group = zarr.open_group(folder / "x.zarr", mode="w")
        with warnings.catch_warnings():  # of anndata, about the coming version of zarr
            warnings.simplefilter("ignore")
            write_elem(group, "X", adata.X)
        return AnnData(sparse_dataset(group["X"]), obs=adata.obs, var=adata.var)
    adata.write_h5ad(folder / "l.h5ad")
    file = h5py.File(folder / "l.h5ad", "r")
    return ad.AnnData(ad.experimental.read_elem_lazy(file["X"]), obs=adata.obs, var=adata.var)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["csc", "backed", "backed dense", "zarr", "dask"])
def test_a_fit_is_the_same_wherever_the_counts_are(kind, streamed, request, tmp_path) -> None:
    if streamed:
        request.getfixturevalue("small")
    obs = pd.DataFrame({"slide": pd.Categorical(np.repeat(["a", "b"], 130))}, index=[f"s{i}" for i in range(260)])
    adata = AnnData(_counts(), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))

    def weights(data: AnnData) -> dict[str, torch.Tensor]:
        with pytest.warns(UserWarning, match="2 of 260 spots have no counts"):
            model = SpotVAE(data, n_latent=4, n_hidden=16, batch_key="slide")
        model.fit(max_epochs=3, patience=9, batch_size=16, progress=False, device="cpu")
        return model.module.state_dict()

    want, got = weights(adata), weights(_stored(kind, adata, tmp_path))
    assert all(torch.equal(v, got[k]) for k, v in want.items())


def test_streamed_and_kept_start_at_the_same_place(small, monkeypatch) -> None:
    """Only the order of the sums and of the spots differs."""
    adata = AnnData(_counts()[4:70], var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    streamed = SpotVAE(adata, n_latent=3).fit(max_epochs=0, validation_fraction=0, progress=False, device="cpu")
    monkeypatch.setattr(_spot_data, "KEPT", 10**9)
    kept = SpotVAE(adata, n_latent=3).fit(max_epochs=0, validation_fraction=0, progress=False, device="cpu")
    np.testing.assert_allclose(streamed.embed(), kept.embed(), atol=1e-4)
