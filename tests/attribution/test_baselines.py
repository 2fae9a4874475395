from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from st_concepts.attribution import (
    group_baseline,
    group_means,
    mean_baseline,
    other_groups_baselines,
    profile_baseline,
    zero_baseline,
)


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 6), st.integers(2, 4), st.booleans())
def test_means_equal_numpys_selection(seed, n, g, k, sparse):
    rng = np.random.default_rng(seed)
    x = rng.random((n, g)) * (rng.random((n, g)) < 0.5)
    labels = np.concatenate([np.arange(k), rng.integers(-1, k, n)])[:n]
    labels = np.concatenate([labels, [0, 1]])
    x = np.concatenate([x, rng.random((2, g))])
    features = sp.csr_matrix(x) if sparse else x
    weights = labels[:, None] == np.arange(k)
    others = other_groups_baselines(features, weights)
    means = group_means(features, weights)
    for j in range(k):
        np.testing.assert_allclose(others[j], x[(labels != j) & (labels >= 0)].mean(0))
        if (labels == j).any():
            np.testing.assert_allclose(means[j], x[labels == j].mean(0))
            np.testing.assert_allclose(group_baseline(features, labels, j), x[labels == j].mean(0))
        else:
            assert np.isnan(means[j]).all()
    np.testing.assert_allclose(mean_baseline(features), x.mean(0))


def test_zero():
    assert not zero_baseline(4).any()
    assert zero_baseline(4).shape == (4,)


def test_profile_is_put_in_the_models_order():
    genes = pd.Index(["a", "b", "c"])
    np.testing.assert_array_equal(profile_baseline(pd.Series({"c": 3, "x": 9, "a": 1, "b": 2}), genes), [1, 2, 3])
    np.testing.assert_array_equal(profile_baseline(np.array([1, 2, 3]), genes), [1, 2, 3])
    with pytest.raises(ValueError, match="lacks 2 of the model's 3 genes, for example b, c"):
        profile_baseline(pd.Series({"a": 1.0}), genes)
    with pytest.raises(ValueError, match="needs 3 values"):
        profile_baseline(np.ones(2), genes)
    with pytest.raises(ValueError, match="NaN or infinite"):
        profile_baseline(pd.Series({"a": 1.0, "b": np.nan, "c": 0.0}), genes)


def test_nothing_to_average():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="no other group"):
        other_groups_baselines(x, np.ones((3, 1)))
    with pytest.raises(ValueError, match="No spot to average"):
        mean_baseline(x, np.zeros(3))
    with pytest.raises(ValueError, match="there are 3 spots"):
        mean_baseline(x, np.ones(2))
    with pytest.raises(ValueError, match=r"No spot is labelled 'GCL'\. Labels: GL, ONL"):
        group_baseline(x, pd.Series(["ONL", "GL", None]), "GCL")
