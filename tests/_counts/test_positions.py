"""Coordinates are checked where they are read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from st_concepts._counts.positions import positions

XY = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])


def spots(spatial: object) -> AnnData:
    adata = AnnData(np.ones((3, 1), np.float32))
    adata.obsm["spatial"] = spatial
    return adata


def frame(values: object) -> pd.DataFrame:
    return pd.DataFrame(values, index=["0", "1", "2"])


@pytest.mark.parametrize(
    "spatial",
    [XY, XY.astype(np.int32), XY.astype(np.float16), np.c_[XY, [9, 9, np.nan]], frame(XY), frame(XY).astype("Int64")],
    ids=["float64", "int32", "float16", "three columns", "frame", "nullable"],
)
def test_two_columns_of_numbers_in_any_form(spatial) -> None:
    found = positions(spots(spatial))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, XY)


@pytest.mark.parametrize(
    ("spatial", "match"),
    [
        (np.where(XY == 2, np.nan, XY), r"NaN or infinite for 1 of 3 spots \(first '1'\)"),
        (np.where(XY == 4, -np.inf, XY), r"1 of 3 spots \(first '2'\)"),
        (frame({0: [0, 1, None], 1: [0, 1, 2]}).astype("Int64"), r"1 of 3 spots \(first '2'\)"),
        (np.where(XY == 4, 1e300, XY), r"1e\+300 \(spot '2'\), which is no position"),
        (np.ones((3, 2)), r"all 3 spots at one place, \(1, 1\)"),
        (XY * 1e-12, "all 3 spots at one place"),
        (XY[:, :1], r"has shape \(3, 1\)"),
        (XY[:, :, None], r"has shape \(3, 2, 1\)"),
        (np.full((3, 2), "here"), "something else than coordinates"),
        (XY.astype(complex), "complex128 is no kind of number"),
        (frame({"x": ["a", "b", "c"], "y": [1, 2, 3]}), "something else than coordinates"),
        (sp.csr_matrix(XY), "something else than coordinates"),
    ],
)
def test_what_cannot_be_a_position_is_named(spatial, match) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        positions(spots(spatial))
    assert "adata.obsm['spatial']" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_coordinates_are_a_key_error() -> None:
    with pytest.raises(KeyError, match=r"obsm\['spatial'\] is missing: put the coordinates"):
        positions(AnnData(np.ones((3, 1), np.float32)))
