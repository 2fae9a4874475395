"""The modified t-test against a double loop over pairs, and its level on smooth fields."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.spatial.distance import cdist

from st_concepts.stats import RowStream, association_test, dutilleul_test
from st_concepts.stats import _dutilleul as module

RNG = np.random.default_rng(0)
XY = RNG.random((24, 2)) * 5
SECTION = np.repeat([0, 1], [14, 10])
X = np.cumsum(RNG.normal(size=(24, 3)), axis=0)[np.argsort(np.argsort(XY[:, 0]))]
Y = np.c_[XY[:, 0] > 2.5, np.sin(XY[:, 1])].astype(float)


def by_hand(x: np.ndarray, y: np.ndarray, section: np.ndarray, n_classes: int) -> tuple[float, float]:
    """Correlation and p-value from explicit covariance matrices."""
    n = len(x)
    centring = np.eye(n)
    for s in np.unique(section):
        own = section == s
        centring[np.ix_(own, own)] -= 1 / own.sum()
    x, y = centring @ x, centring @ y
    together = section[:, None] == section
    distance = cdist(XY[:n], XY[:n])
    width = distance[together].max() / n_classes

    def covariance(v: np.ndarray) -> np.ndarray:
        classes: dict[int, list[tuple[int, int]]] = {}
        for i in range(n):
            for j in range(n):
                if together[i, j]:
                    k = 0 if i == j else max(int(np.ceil(distance[i, j] / width - 1e-9)), 1)
                    classes.setdefault(k, []).append((i, j))
        out = np.zeros((n, n))
        for pairs in classes.values():
            mean = np.mean([v[i] * v[j] for i, j in pairs])
            for i, j in pairs:
                out[i, j] = mean
        return out

    sx, sy = centring @ covariance(x), centring @ covariance(y)
    variance = np.trace(sx @ sy) / (np.trace(sx) * np.trace(sy))
    df = min(1 + 1 / variance, n) - 2
    r = x @ y / np.sqrt((x @ x) * (y @ y))
    return r, 2 * stats.t.sf(abs(r) * np.sqrt(df / (1 - r**2)), df)


@pytest.mark.parametrize("section", [np.zeros(24, int), SECTION], ids=["one", "two"])
@pytest.mark.parametrize("n_classes", [4, 9])
def test_it_is_the_double_loop(section, n_classes, monkeypatch):
    monkeypatch.setattr(module, "_HELD", 8 * 24 * 2)  # two genes at a time
    found = dutilleul_test(X, Y, XY, sections=section, n_classes=n_classes)
    for g in range(3):
        for c in range(2):
            r, p = by_hand(X[:, g], Y[:, c], section, n_classes)
            np.testing.assert_allclose([found.correlation[g, c], found.pval[g, c]], [r, p], rtol=1e-9)
    np.testing.assert_allclose(found.pval_greater, stats.norm.sf(found.z), rtol=1e-8)
    assert found.null == "dutilleul"


def test_spots_without_pattern_are_counted_as_they_are():
    rng = np.random.default_rng(1)
    xy, x = rng.random((200, 2)), rng.normal(size=(200, 300))
    y = rng.normal(size=200)
    modified, plain = dutilleul_test(x, y, xy), association_test(x, y, "none")
    np.testing.assert_allclose(modified.correlation, plain.correlation, atol=1e-10)
    assert np.median(np.abs(np.log(modified.pval / plain.pval))) < 0.05


@pytest.mark.parametrize("tiled", [False, True])
def test_the_level_on_smooth_fields(tiled):
    side = np.arange(15.0)
    xy = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    root = np.linalg.cholesky(np.exp(-0.5 * (cdist(xy, xy) / 2.5) ** 2) + 1e-6 * np.eye(225))
    rng = np.random.default_rng(1)
    genes, targets = root @ rng.normal(size=(225, 300)), root @ rng.normal(size=(225, 8))
    options = {"exact_below": 100, "n_tiles": 75} if tiled else {}
    assert (association_test(genes, targets, "none").pval < 0.05).mean() > 0.3
    assert 0.02 < (dutilleul_test(genes, targets, xy, **options).pval < 0.05).mean() < 0.075


def test_streams_missing_spots_and_constants():
    x = np.c_[X, np.ones(24), np.zeros(24)]
    y = Y.copy()
    y[:5, 1] = np.nan
    found = dutilleul_test(x, y, XY)
    alone = dutilleul_test(x[5:], y[5:, 1], XY[5:])
    np.testing.assert_allclose(found.pval[:, 1], alone.pval[:, 0], rtol=1e-9)
    assert found.n_obs.tolist() == [24, 19]
    assert (found.pval[3:] == 1).all()
    assert (found.z[3:] == 0).all()
    a, b = RNG.random(24), RNG.random(5)
    rows = sp.csr_matrix(x)
    stream = RowStream(x.shape, lambda: [(slice(0, 9), rows[:9]), (slice(9, 24), rows[9:])], outer=(a, b))
    np.testing.assert_allclose(
        dutilleul_test(stream, y, XY).pval, dutilleul_test(x - np.outer(a, b), y, XY).pval, rtol=1e-8
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": Y[:3]}, "24 rows"),
        ({"targets": np.full(24, np.inf)}, "infinite"),
        ({"targets": Y * np.nan}, "at least 3"),
        ({"coords": XY[:3]}, "24"),
        ({"n_classes": 0}, "n_classes"),
        ({"X": X * np.nan}, "NaN"),
        ({"X": RowStream(X.shape, lambda: [], shared=True)}, "processes"),
    ],
)
def test_errors_name_the_fault(arguments, message):
    with pytest.raises(ValueError, match=message):
        dutilleul_test(**({"X": X, "targets": Y, "coords": XY} | arguments))
