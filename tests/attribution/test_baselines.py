from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from st_concepts.attribution import profile_baseline


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
