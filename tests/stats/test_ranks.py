from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from st_concepts.stats import auroc, spearman, top_overlap


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 1.0, np.nan])), min_size=3, max_size=40))
def test_auroc_is_sklearns(pairs) -> None:
    score, label = np.array(pairs, dtype=float).T
    known = ~np.isnan(label)
    if len(set(label[known])) < 2:
        assert np.isnan(auroc(score[label == 1], score[label == 0]))
    else:
        assert auroc(score[label == 1], score[label == 0]) == pytest.approx(roc_auc_score(label[known], score[known]))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=40))
def test_spearman_is_scipys(pairs) -> None:
    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(np.r_[a, np.nan], np.r_[b, 1.0]) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_overlap_of_the_largest_counts_gaps_as_smallest() -> None:
    a, b = np.array([5.0, np.nan, 3.0, 1.0]), np.array([0.0, 9.0, 8.0, 7.0])
    assert top_overlap(a, b, 2) == 0.5
    assert top_overlap(a, a, 3) == 1.0
