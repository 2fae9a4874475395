"""Shapes of napari, whole, damaged and as spreadsheets leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.io._annotations.drawings import (
    GOOD,
    HEADER,
    LEFT,
    RIGHT,
    napari,
    read,
    ring,
    save,
)


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "x", ""])
def test_napari_corners_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    text = napari(GOOD, ("polygon", [(0, 0), (value, 4), (5, 5)]))
    with pytest.raises(ValueError, match=r"a\.csv, shape 1: "):
        read(save(tmp_path / "a.csv", text))


def test_napari_shapes_without_an_area(tmp_path: Path) -> None:
    few = [("polygon", [(0, 0), (5, 5)]), ("ellipse", [(0, 0), (5, 5), (9, 1)]), ("polygon", [(1, 1)] * 5)]
    counts, said = read(save(tmp_path / "a.csv", napari(GOOD, *few, ("path", [(0, 0), (1, 1)]))))
    assert counts == {"a": 50}
    assert "3 outlines with fewer than three corners or no area" in said
    assert "1 lines and paths" in said
    with pytest.raises(ValueError, match=r"b\.csv: no polygons, rectangles or ellipses \(3 outlines"):
        read(save(tmp_path / "b.csv", napari(*few)))


@pytest.mark.parametrize(
    "text",
    [
        napari(GOOD) + "1,polygon\n",
        napari(GOOD) + "1,polygon,0,1,2,3,4\n",
        napari(GOOD) + '1,"' + "x" * 200_000 + '",0,1,2\n',
        napari(GOOD) + '1,"polygon,0,1,2\n',
        napari(GOOD).replace("axis-1", "axis-x"),
        HEADER.replace("\n", ",label\n") + "".join(f"0,polygon,{v},{v % 2},{v // 2},l{v}\n" for v in range(4)),
        napari(GOOD).replace("index,", "axis-0,", 1),
        HEADER,
    ],
)
def test_napari_tables_that_are_damaged(tmp_path: Path, text: str) -> None:
    path = save(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match=r"a\.csv") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_napari_as_spreadsheets_leave_it(tmp_path: Path) -> None:
    lines = napari(GOOD).splitlines()
    shuffled = "\n".join([lines[0], *(lines[i] for i in (3, 1, 4, 2))])
    capital = napari(GOOD).replace("rectangle", "Rectangle")
    padded = "".join(f"{line},,\n" for line in lines)
    for text in (napari(GOOD).replace(",", ";"), napari(GOOD).encode("utf-16"), shuffled, capital, padded):
        assert read(save(tmp_path / "a.csv", text))[0] == {"a": 50}
    planes = HEADER.replace("axis-1", "axis-1,axis-2") + "".join(
        f"{i},polygon,{v},{i},{y},{x}\n" for i, b in enumerate((LEFT, RIGHT)) for v, (x, y) in enumerate(ring(b)[:4])
    )
    counts, said = read(save(tmp_path / "a.csv", planes))
    assert counts == {"a": 100}
    assert "several planes" in said
