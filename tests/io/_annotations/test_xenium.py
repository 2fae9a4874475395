"""Selections of Xenium Explorer: coordinates, cells, and folders of several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.io._annotations.drawings import (
    CELLS,
    GOOD,
    LEFT,
    ONE,
    RIGHT,
    TWO,
    corners,
    napari,
    read,
    save,
    section,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE + "X,Y\n" + corners(LEFT), {"Tumor é": 50}),
        ("\ufeff" + (ONE + "X,Y\n" + corners(LEFT)).replace("\n", "\r\n"), {"Tumor é": 50}),
        (ONE + "Selection,X,Y\n" + corners(LEFT, "Tumor é,"), {"Tumor é": 50}),
        (TWO + "Selection,X,Y\n" + corners(LEFT, "A,") + corners(RIGHT, "B,"), {"A": 50, "B": 50}),
        ("Selection,X,Y\n" + corners(LEFT, "A,") + corners(RIGHT, "B,"), {"A": 50, "B": 50}),
        ("X,Y\n" + corners(LEFT), {"file": 50}),
        # as a spreadsheet saves it
        ('"#Selection name: A, b",,\n#Area (um^2): 1,,\nX,Y,\n' + corners(LEFT, "", ","), {"A, b": 50}),
    ],
)
def test_xenium_coordinates(tmp_path: Path, text: str, expected: dict[str, int]) -> None:
    assert read(save(tmp_path / "file.csv", text)) == (expected, "")


def test_xenium_classes(tmp_path: Path) -> None:
    text = TWO + "Selection,X,Y,Class,Color\n" + corners(LEFT, "A,", ",T,#c2c2c2")
    path = save(tmp_path / "a.csv", text + corners(RIGHT, "B,", ",Unclassified,#c2c2c2"))
    counts, said = read(path)
    assert counts == {"A": 50, "B": 50}
    assert "column='Class'" in said
    assert read(path, column="Class")[0] == {"T": 50}


def test_xenium_cells(tmp_path: Path) -> None:
    adata = section()
    folder = tmp_path / "selections"
    folder.mkdir()
    rows = [f"{name},{i % 3},10,5.5\n" for i, name in enumerate(adata.obs_names)]
    save(folder / "one.csv", ONE + CELLS + "".join(rows[:7]))
    assert read(folder / "one.csv")[0] == {"Tumor é": 7}
    assert read(folder / "one.csv", column="Cluster")[0] == {"0": 3, "1": 2, "2": 2}
    save(folder / "two.csv", ONE.replace("Tumor é", "Stroma") + CELLS + "".join(rows[5:17]) + "zzzz-1,1,1,1\n")
    counts, said = read(folder, adata)
    assert counts == {"Tumor é": 7, "Stroma": 10}
    assert adata.obs["layer"].tolist()[:8] == ["Tumor é"] * 7 + ["Stroma"]
    assert "2 cells are in selections of different labels and take that of the smallest" in said
    assert "1 of 18 barcodes are not in the data" in said
    assert read(folder, overlap="none")[0] == {"Tumor é": 5, "Stroma": 10}
    with pytest.raises(ValueError, match="is in Stroma, Tumor é"):
        read(folder, overlap="error")
    with pytest.raises(ValueError, match="none of its 1 barcodes"):
        read(save(tmp_path / "a.csv", ONE + CELLS + "zzzz-1,1,1,1\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (ONE, "not a selection of Xenium Explorer"),
        (ONE + "A,B\n1,2\n", r"expected the columns X, Y .* found: A, B"),
        (ONE + "X,Y\n1,nan\n2,2\n3,4\n", "selection Tumor é: a coordinate is not finite"),
        (ONE + "X,Y\n1,a\n2,2\n3,4\n", "corner 1 has no number in Y"),
        (ONE + "X,Y\n1,1\n2,2\n", "no selection with an area"),
        (TWO.replace("B", "A") + "Selection,X,Y\n" + corners(LEFT, "A,"), "two selections are called 'A'"),
    ],
)
def test_xenium_mistakes(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read(save(tmp_path / "a.csv", text))


def test_xenium_micrometres_on_spots_in_pixels(tmp_path: Path) -> None:
    adata = section()
    adata.obsm["spatial"] = (adata.obsm["spatial"] + 1000) / 0.2125
    path = save(tmp_path / "a.csv", ONE + "X,Y\n" + corners((999, 999, 1041, 1091)))
    with pytest.raises(ValueError, match=r"They fit if scale=0\.2125 is given"):
        read(path, adata)
    assert read(path, adata, scale=0.2125)[0] == {"Tumor é": 50}


def test_one_name_in_several_files_is_said(tmp_path: Path) -> None:
    for name, box in (("a.csv", LEFT), ("b.csv", RIGHT)):
        save(tmp_path / name, ONE + "X,Y\n" + corners(box))
    counts, said = read(tmp_path)
    assert counts == {"Tumor é": 100}
    assert "'Tumor é' is the selection of 2 files" in said


@pytest.mark.parametrize("kind", [None, "napari", "xenium"])
def test_folders_without_tables(tmp_path: Path, kind: str | None) -> None:
    save(tmp_path / "a.png", b"")
    with pytest.raises(ValueError, match="is a folder without CSV files"):
        read(tmp_path, kind=kind)


def test_folders_of_several_programs(tmp_path: Path) -> None:
    save(tmp_path / "a.csv", napari(GOOD))
    save(tmp_path / "._a.csv", b"\0\0\0")  # macOS leaves such files on shared disks
    assert read(tmp_path)[0] == {"a": 50}
    save(tmp_path / "b.csv", TWO + "Selection,X,Y\n" + corners(LEFT, "A,"))
    with pytest.raises(ValueError, match=r"found: b.csv \(xenium\), a.csv \(napari\)"):
        read(tmp_path)
