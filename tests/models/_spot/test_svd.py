from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import optimize, stats
from sklearn.decomposition import PCA

from st_concepts.models._spot import svd as _warmstart
from st_concepts.models._spot.module import SpotModule
from st_concepts.models._spot.svd import section_means, start_dispersion, truncated_svd, warm_start


def _structured(n: int = 90, g: int = 40, rank: int = 4, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(n, rank)) * np.array([8.0, 5.0, 3.0, 2.0])[:rank] @ rng.normal(size=(rank, g))
    x = np.maximum(low + rng.normal(0, 0.05, (n, g)), 0)
    return sp.csr_matrix(x.astype(np.float32)), rng.integers(0, 3, n)


def _stream(x: sp.csr_matrix, codes: np.ndarray, size: int = 17):
    def stream():
        for start in range(0, x.shape[0], size):
            yield x[start : start + size], codes[start : start + size]

    return stream


@pytest.fixture(params=["exact", "power"])
def branch(request, monkeypatch) -> str:
    if request.param == "power":
        monkeypatch.setattr(_warmstart, "EXACT_BELOW", 0)
    return request.param


def test_section_means() -> None:
    x, codes = _structured()
    means, n = section_means(_stream(x, codes), 4)
    dense = x.toarray()
    for s in range(3):
        np.testing.assert_allclose(means[s], dense[codes == s].mean(0), rtol=1e-5)
    assert (means[3] == 0).all()
    assert n.tolist() == [*np.bincount(codes, minlength=3), 0]


def test_one_section_is_pca(branch) -> None:
    x, _ = _structured()
    codes = np.zeros(x.shape[0], dtype=np.int64)
    svd = truncated_svd(_stream(x, codes), n_sections=1, k=4, n_passes=8)
    pca = PCA(4, svd_solver="full").fit(x.toarray().astype(np.float64))
    n = x.shape[0]
    np.testing.assert_allclose(svd.sd, np.sqrt(pca.explained_variance_ * (n - 1) / n), rtol=1e-4)
    np.testing.assert_allclose(np.abs((svd.components * pca.components_.T).sum(0)), 1, atol=1e-4)
    top = svd.components[np.abs(svd.components).argmax(0), np.arange(4)]
    assert (top > 0).all()


def test_several_sections_are_centred_apart(branch) -> None:
    x, codes = _structured()
    dense = x.toarray().astype(np.float64)
    centred = dense - np.stack([dense[codes == s].mean(0) for s in range(3)])[codes]
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    svd = truncated_svd(_stream(x, codes), n_sections=3, k=3, n_passes=8)
    np.testing.assert_allclose(svd.sd, s[:3] / np.sqrt(len(dense)), rtol=1e-4)
    np.testing.assert_allclose(np.abs((svd.components * vt[:3].T).sum(0)), 1, atol=1e-4)


def test_components_beyond_the_rank_are_zero(branch) -> None:
    x, _ = _structured(rank=2)
    x = sp.csr_matrix(np.repeat(x[:3].toarray(), 20, axis=0))  # three different spots: rank 2 once centred
    codes = np.zeros(60, dtype=np.int64)
    svd = truncated_svd(_stream(x, codes), n_sections=1, k=5)
    assert (svd.sd[:2] > 0).all()
    assert (svd.sd[2:] == 0).all()
    assert (svd.components[:, 2:] == 0).all()
    np.testing.assert_allclose(svd.components[:, :2].T @ svd.components[:, :2], np.eye(2), atol=1e-5)


def test_the_branches_agree(monkeypatch) -> None:
    x, codes = _structured(seed=2)
    exact = truncated_svd(_stream(x, codes), n_sections=3, k=3)
    monkeypatch.setattr(_warmstart, "EXACT_BELOW", 0)
    power = truncated_svd(_stream(x, codes), n_sections=3, k=3, n_passes=8)
    np.testing.assert_allclose(power.components, exact.components, atol=1e-3)


def test_from_a_sample_two_passes_do(monkeypatch) -> None:
    x, codes = _structured(n=300, seed=3)
    exact = truncated_svd(_stream(x, codes), n_sections=3, k=3)
    monkeypatch.setattr(_warmstart, "EXACT_BELOW", 0)
    passes = []

    def counted():
        passes.append(1)
        return _stream(x, codes)()

    known = section_means(_stream(x, codes), 3)
    sample = _stream(x[::3], codes[::3])
    found = truncated_svd(counted, n_sections=3, k=3, means=known, sample=sample)
    assert len(passes) == 2
    np.testing.assert_allclose(found.sd, exact.sd, rtol=1e-4)
    np.testing.assert_allclose(np.abs((found.components * exact.components).sum(0)), 1, atol=1e-4)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="zero rows"):
        truncated_svd(lambda: iter(()), n_sections=1, k=1)


def _module(g: int, k: int) -> SpotModule:
    return SpotModule(g, n_latent=k, n_hidden=8, n_layers=1, n_sections=1, generator=torch.Generator().manual_seed(0))


def test_warm_start_is_pca_in_one_common_scale() -> None:
    x, _ = _structured()
    codes = np.zeros(x.shape[0], dtype=np.int64)
    svd = truncated_svd(_stream(x, codes), n_sections=1, k=3)
    module = _module(40, 3)
    share = np.full((1, 40), 1 / 40)
    warm_start(module, svd, share)
    dense = x.toarray()
    with torch.no_grad():
        z = module.rest(module.preactivations(torch.from_numpy(dense), None)).numpy()
        logits = module.logits(torch.from_numpy(z), None).numpy()
    scores = (dense - dense.mean(0)) @ svd.components
    scale = np.sqrt((svd.sd**2).mean())
    np.testing.assert_allclose(z, scores / scale, atol=2e-4)
    assert z.var(0).mean() == pytest.approx(1.0, rel=1e-3)
    # what the decoder adds to the base rates is the rank-k reconstruction
    np.testing.assert_allclose(logits - np.log(1 / 40), scores @ svd.components.T, atol=2e-3)


def test_dispersion_is_the_maximum_a_posteriori() -> None:
    rng = np.random.default_rng(1)
    n, theta = 400, np.array([0.5, 2.0, 30.0])
    size = rng.integers(300, 600, n)
    share = np.array([0.2, 0.3, 0.5])
    counts = rng.poisson(size[:, None] * share * rng.gamma(theta, 1 / theta, (n, 3)))
    module = _module(3, 1)
    with torch.no_grad():
        module.loadings.zero_()
        module.log_rate.copy_(torch.from_numpy(np.log(share)[None]))
    csr = sp.csr_matrix(counts.astype(np.float32))
    start_dispersion(module, torch.zeros(n, 3), csr, None)
    mean = counts.sum(1, keepdims=True) * share
    for g in range(3):

        def objective(log_theta: float, g: int = g) -> float:
            t = np.exp(log_theta)
            fit = stats.nbinom.logpmf(counts[:, g], t, t / (t + mean[:, g])).sum()
            return -(fit - 0.15 * (log_theta - np.log(10)) ** 2)

        best = optimize.minimize_scalar(objective, bounds=(-5, 9), method="bounded").x
        assert float(module.log_theta[g].detach()) == pytest.approx(best, abs=0.01)
