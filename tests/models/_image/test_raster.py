from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from st_concepts.models._image.raster import make_raster


def grid(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(float)


def visium(rows: int, columns: int) -> np.ndarray:
    row, column = np.divmod(np.arange(rows * 2 * columns), 2 * columns)
    keep = (row + column) % 2 == 0
    return np.stack([column[keep] * 50.0, row[keep] * 50.0 * np.sqrt(3)], -1)


@given(
    st.integers(4, 25),
    st.integers(4, 25),
    st.floats(0.01, 500),
    st.floats(-1e3, 1e3),
    st.floats(0.0, 0.12),
    st.floats(0.9, 1.1),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_a_jittered_square_lattice_gives_its_rounded_sites(width, height, pitch, offset, jitter, aspect, seed) -> None:
    rng = np.random.default_rng(seed)
    sites = grid(width, height)
    sites = sites[rng.random(len(sites)) > 0.1]
    xy = (sites + rng.uniform(-jitter, jitter, sites.shape)) * [pitch, pitch * aspect] + offset
    raster = make_raster(xy)
    y, x = np.divmod(raster.pixel, raster.shape[1])
    assert raster.kind == "square"
    np.testing.assert_array_equal(x, sites[:, 0] - sites[:, 0].min())
    np.testing.assert_array_equal(y, sites[:, 1] - sites[:, 1].min())


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("jitter", [0.0, 3.0])
def test_a_hexagonal_lattice_gives_one_pixel_a_spot(swap, jitter) -> None:
    xy = visium(30, 25)
    xy = xy + np.random.default_rng(0).uniform(-jitter, jitter, xy.shape)
    raster = make_raster(xy[:, ::-1] if swap else xy)
    assert raster.kind == "hexagonal"
    assert raster.report()["spots_sharing_a_pixel"] == 0
    assert sorted(raster.shape) == [25, 30] or sorted(raster.shape) == [26, 30]
    assert max(raster.pixel_size) == pytest.approx(100, rel=0.01)


def test_irregular_positions_are_binned_to_about_two_spots_a_pixel() -> None:
    xy = np.random.default_rng(0).random((2000, 2)) * [1000, 500]
    raster = make_raster(xy)
    assert raster.kind == "irregular"
    assert 1.6 < 2000 / np.prod(raster.shape) < 2.4
    # every spot lies inside its pixel
    y, x = np.divmod(raster.pixel, raster.shape[1])
    corner = np.array(raster.origin) + np.stack([x, y], -1) * raster.pixel_size
    assert ((xy - corner >= -1e-9) & (xy - corner <= np.array(raster.pixel_size) + 1e-9)).all()


def test_large_sections_are_coarsened_and_say_so() -> None:
    raster = make_raster(grid(300, 200), max_side=50)
    assert max(raster.shape) == 50
    assert raster.coarsened == pytest.approx(6, rel=0.05)
    assert "share one" in repr(raster)


def test_the_pixel_size_can_be_given() -> None:
    assert make_raster(grid(10, 10), pixel_size=2).shape == (5, 5)
    assert make_raster(grid(10, 10), pixel_size=(5, 2)).shape == (5, 2)


def test_padding_moves_nothing() -> None:
    raster = make_raster(grid(5, 4)[3:])
    wide = raster.padded((9, 2))
    assert wide.shape == (9, 5)
    np.testing.assert_array_equal(wide.mask[2:6], raster.mask)
    assert wide.mask.sum() == raster.mask.sum()
    assert wide.origin[1] == pytest.approx(raster.origin[1] - 2 * raster.pixel_size[1])


def test_spots_of_a_pixel_are_summed_and_read_back() -> None:
    raster = make_raster(np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 0.0], [0.0, 9.0]]), pixel_size=5)
    values = sp.csr_matrix(np.array([[1.0, 2.0, 4.0, 8.0]]))
    pixels = raster.to_pixels(values).toarray().reshape(1, *raster.shape)
    np.testing.assert_array_equal(pixels, [[[3, 4], [8, 0]]])
    np.testing.assert_array_equal(raster.to_spots(pixels), [[3, 3, 4, 8]])


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        (np.zeros((5, 3)), {}, r"\(n_obs, 2\)"),
        (np.zeros((5, 2)), {}, "same position"),
        (np.array([[0, np.nan], [1, 1]]), {}, "1 spots have NaN"),
        (grid(3, 3), {"pixel_size": 0}, "above zero"),
        (grid(3, 3), {"max_side": 1}, "at least 2"),
    ],
)
def test_errors_say_what_is_wrong(positions, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_raster(positions, **options)


@pytest.mark.real_data
def test_the_bulb_is_rounded_as_in_the_paper(mob1, mob2, mob11) -> None:
    for adata in (mob1, mob2, mob11):
        raster = make_raster(adata.obsm["spatial"])
        y, x = np.divmod(raster.pixel, raster.shape[1])
        array = np.floor(adata.obs[["array_x", "array_y"]].to_numpy() + 0.5)
        np.testing.assert_array_equal(np.stack([x, y], -1), array - array.min(0))
