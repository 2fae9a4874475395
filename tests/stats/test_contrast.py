"""Welch's t and correlations from one pass over a stream, against those of scipy and numpy on the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import ttest_ind

from st_concepts.stats import Contrast, RowStream

RNG = np.random.default_rng(0)
N, G, K = 140, 17, 3
ROWS = sp.csr_matrix(RNG.poisson(0.7, (N, G)) * RNG.uniform(0.5, 2.0, (N, G)))
A, B = np.sqrt(RNG.integers(40, 90, N)), RNG.uniform(0.1, 0.5, G)
LABELS = RNG.integers(0, K, N)
SCORE = RNG.normal(size=(N, K)) + 2 * np.eye(K)[LABELS]
INSIDE = np.eye(K)[LABELS]
SECTIONS = RNG.integers(0, 3, N)
ONE = np.zeros(N, dtype=np.intp)


def stream(x: sp.csr_matrix = ROWS, step: int = 37, outer=None) -> RowStream:
    def read():
        for a in range(0, x.shape[0], step):
            rows = slice(a, min(a + step, x.shape[0]))
            yield rows, x[rows]

    return RowStream(x.shape, read, outer=outer)


def summed(x: RowStream, inside=INSIDE, outside=None, score=SCORE, sections=ONE) -> Contrast:
    made = Contrast(inside, 1 - inside if outside is None else outside, score, sections, x.shape[1])
    for _ in made.watching(x).read():
        pass
    return made


def test_welch_is_scipys():
    x = ROWS.toarray()
    expected = np.stack([ttest_ind(x[j == LABELS], x[j != LABELS], equal_var=False).statistic for j in range(K)], 1)
    np.testing.assert_allclose(summed(stream()).welch(), expected, rtol=1e-9)


def test_spots_of_neither_side_take_no_part():
    x, used = ROWS.toarray(), np.arange(N) % 3 > 0
    inside, outside = INSIDE * used[:, None], (1 - INSIDE) * used[:, None]
    expected = ttest_ind(x[used & (LABELS == 1)], x[used & (LABELS != 1)], equal_var=False).statistic
    np.testing.assert_allclose(summed(stream(), inside, outside).welch()[:, 1], expected, rtol=1e-9)


def test_welch_of_weights_by_hand():
    x, w = ROWS.toarray(), RNG.random((N, K))
    found = summed(stream(), w).welch()
    for j in range(K):
        sides = []
        for weight in (w[:, j], 1 - w[:, j]):
            mean = weight @ x / weight.sum()
            variance = weight @ (x - mean) ** 2 / weight.sum()
            effective = weight.sum() ** 2 / (weight**2).sum()
            sides.append((mean, variance / (effective - 1)))
        (high, a), (low, b) = sides
        np.testing.assert_allclose(found[:, j], (high - low) / np.sqrt(a + b), rtol=1e-9)


def test_correlation_is_numpys():
    x = ROWS.toarray()
    expected = np.corrcoef(x.T, SCORE.T)[:G, G:]
    made = summed(stream())
    np.testing.assert_allclose(made.correlation(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(made.both(), made.welch() + np.sqrt(N) * expected, rtol=1e-9)


def test_spots_without_a_score_take_no_part_in_the_correlation():
    score, x = SCORE.copy(), ROWS.toarray()
    score[::5] = np.nan
    known = ~np.isnan(score[:, 0])
    made = summed(stream(), score=score)
    expected = np.corrcoef(x[known].T, score[known].T)[:G, G:]
    np.testing.assert_allclose(made.correlation(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(made.both() - made.welch(), np.sqrt(known.sum()) * expected, rtol=1e-9, atol=1e-9)


def test_sections_are_compared_within_themselves():
    x = ROWS.toarray()
    made = summed(stream(), sections=SECTIONS)
    centred = SCORE - np.stack([SCORE[s == SECTIONS].mean(0) for s in range(3)])[SECTIONS]
    np.testing.assert_allclose(made.correlation(), np.corrcoef(x.T, centred.T)[:G, G:], rtol=1e-9, atol=1e-12)
    for j in range(K):
        difference, total = 0.0, 0.0
        for s in range(3):
            a, b = x[(s == SECTIONS) & (j == LABELS)], x[(s == SECTIONS) & (j != LABELS)]
            share = len(a) * len(b) / (len(a) + len(b))
            difference, total = difference + share * (a.mean(0) - b.mean(0)), total + share
        a, b = x[j == LABELS], x[j != LABELS]
        error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
        np.testing.assert_allclose(made.welch()[:, j], difference / total / error, rtol=1e-9)


def test_a_gene_that_differs_between_sections_only_carries_nothing():
    """Labels and scores are unequally spread over the sections."""
    sections = (np.arange(N) < N // 2).astype(np.intp)
    inside = (RNG.random(N) < np.where(sections == 1, 0.8, 0.2)).astype(float)[:, None]
    x = sp.csr_matrix(np.where(sections == 1, 9.0, 1.0)[:, None])
    score = inside + sections[:, None]
    assert summed(stream(x), inside, score=score, sections=ONE).welch()[0, 0] > 5
    apart = summed(stream(x), inside, score=score, sections=sections)
    assert abs(apart.welch()[0, 0]) < 1e-9
    assert abs(apart.correlation()[0, 0]) < 1e-9


def test_a_section_that_lacks_a_side_does_not_count_for_the_difference():
    sections = (np.arange(N) < N // 2).astype(np.intp)
    inside = INSIDE.copy()
    inside[sections == 1, 0] = 0.0
    outside = 1 - inside
    x, own = ROWS.toarray(), sections == 0
    made = summed(stream(), inside, outside, sections=sections)
    a, b = inside[:, 0] == 1, outside[:, 0] == 1
    error = np.sqrt(x[a].var(0, ddof=1) / a.sum() + x[b].var(0, ddof=1) / b.sum())
    np.testing.assert_allclose(made.welch()[:, 0], (x[a].mean(0) - x[b & own].mean(0)) / error, rtol=1e-9)


@pytest.mark.parametrize("step", [1, 20, 200])
@pytest.mark.parametrize("sections", [ONE, SECTIONS], ids=["one", "three"])
def test_rows_less_a_rank_one_matrix_are_the_dense_matrix(step, sections):
    explicit = sp.csr_matrix(ROWS.toarray() - np.outer(A, B))
    want = summed(stream(explicit), sections=sections)
    got = summed(stream(step=step, outer=(A, B)), sections=sections)
    for name in ("welch", "correlation", "both"):
        np.testing.assert_allclose(getattr(got, name)(), getattr(want, name)(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("step", [1, 37, 139, 500])
def test_batches_do_not_matter_and_later_passes_add_nothing(step):
    want = summed(stream(step=N))
    made = Contrast(INSIDE, 1 - INSIDE, SCORE, ONE, G)
    watched = made.watching(stream(step=step))
    for _ in range(3):
        np.testing.assert_array_equal(sp.vstack([b for _, b in watched.read()]).toarray(), ROWS.toarray())
    np.testing.assert_allclose(made.both(), want.both(), rtol=1e-10, atol=1e-12)


def test_flat_genes_scores_and_empty_sides_are_zero():
    x = ROWS.tolil()
    x[:, 2] = 0.0
    x[:, 3] = 1.5
    inside, score = INSIDE.copy(), SCORE.copy()
    inside[:, 1], score[:, 2] = 0.0, 4.0
    made = summed(stream(x.tocsr()), inside, 1 - inside, score)
    assert not made.welch()[[2, 3]].any()
    assert not made.correlation()[[2, 3]].any()
    assert not made.welch()[:, 1].any()
    assert not made.correlation()[:, 2].any()
    assert np.isfinite(made.both()).all()
    # the residual of a flat gene in float32 is rounding, not a variance
    single = summed(stream(x.tocsr().astype(np.float32)), inside, 1 - inside, score)
    assert not single.both()[[2, 3]].any()


def test_float32_rows_cost_little_precision():
    want, got = summed(stream()), summed(stream(ROWS.astype(np.float32)))
    assert got.linear.dtype == np.float64
    np.testing.assert_allclose(got.both(), want.both(), rtol=1e-3, atol=1e-3)
