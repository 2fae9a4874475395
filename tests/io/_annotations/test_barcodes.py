"""Barcodes that were written by different programs, tables as people save them, several sections in one AnnData."""

from __future__ import annotations

import csv
import gzip
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import st_concepts as stc
from st_concepts.io._annotations.barcodes import match_names
from st_concepts.io._annotations.sheet import read_sheet

BARCODES = [f"{a}{b}{c}{d}GTCA" for a in "ACGT" for b in "ACGT" for c in "AC" for d in "GT"]


def section(names: list[str]) -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return AnnData(np.ones((len(names), 1), dtype=np.float32), obs=pd.DataFrame(index=names))


def labels(adata: AnnData, key: str = "layer") -> list[str | None]:
    return adata.obs[key].astype(object).where(adata.obs[key].notna(), None).tolist()


def truth(n: int) -> list[str]:
    return ["A" if i % 3 else "B" for i in range(n)]


def write(path: Path, barcodes: list[str], values: list[str], header: str = "Barcode,layer") -> Path:
    rows = [f"{b},{v}" for b, v in zip(barcodes, values, strict=True)]
    path.write_text("\n".join([header, *rows[::-1]]) + "\n")
    return path


@pytest.mark.parametrize(
    ("data", "table", "said"),
    [
        ("{}-1", "{}-1", None),
        ("{}-1", "{}", None),
        ("{}", "{}-1", None),
        ("{}-2", "{}-1", "'-2' in the data, '-1' in the table"),
        ("{}-1-0", "{}-1", "'-0' in the data"),
        ("{}-1", "{}-1-S2", "'-S2' in the table"),
        ("{}-1_2", "{}-1", "'_2' in the data"),
        ("{}-1-0", "{}", "in the data"),
        ("S1_{}-1", "{}-1", "'S1_' in the data"),
        ("{}-1", "my_S1:{}-1", "'my_S1:' in the table"),
        ("a#{}-1", "b#{}-1", "'a#' in the data, 'b#' in the table"),
        ("S1_{}-1", "{}", "in the data"),
        ("S1-{}-1", "{}-1", "'S1-' in the data"),
    ],
)
def test_a_suffix_or_prefix_is_left_aside_and_said(tmp_path, data, table, said) -> None:
    want = truth(len(BARCODES))
    adata = section([data.format(b) for b in BARCODES])
    path = write(tmp_path / "t.csv", [table.format(b) for b in BARCODES], want)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stc.io.read_annotation(adata, path)
    assert labels(adata) == want
    texts = [str(w.message) for w in caught]
    assert (texts == []) if said is None else (len(texts) == 1 and said in texts[0] and "left aside" in texts[0])


@pytest.mark.parametrize(
    ("data", "table"),
    [
        ([f"{b}-{1 + i % 2}" for i, b in enumerate(BARCODES)], BARCODES),  # two lanes, none of them named by the table
        ([f"{b}-1-{i % 2}" for i, b in enumerate(BARCODES)], [f"{b}-1" for b in BARCODES]),
        (BARCODES, [f"S{i % 2}_{b}" for i, b in enumerate(BARCODES)]),
        ([f"spot-{i}" for i in range(20)], [f"bead-{i}" for i in range(20, 40)]),
    ],
)
def test_what_tells_sections_apart_is_never_left_aside(tmp_path, data, table) -> None:
    adata = section(data)
    with pytest.raises(ValueError, match=r"none of its .* barcodes"):
        stc.io.read_annotation(adata, write(tmp_path / "t.csv", table, truth(len(table))))
    assert "layer" not in adata.obs


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True),
    st.sampled_from(["", "-1", "-2-0", "_b"]),
    st.sampled_from(["", "S1_", "x:"]),
    st.sampled_from(["", "-1", "-3"]),
)
def test_a_match_is_always_one_core(left, right, suffix, prefix, other) -> None:
    core = {n: f"{n:08d}".translate(str.maketrans("0123456789", "ACGTACGTNN")) + f"X{n}" for n in range(100)}
    data, table = [prefix + core[n] + suffix for n in left], [core[n] + other for n in right]
    found = match_names(data, table).found
    assert all(i < 0 or right[i] == n for n, i in zip(left, found, strict=True))
    assert len({i for i in found if i >= 0}) == sum(i >= 0 for i in found)


@pytest.mark.parametrize(
    "header", [",cell_id,layer", "Unnamed: 0,cell_id,layer", "index,cell_id,layer", "id,barcode,layer"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_row_numbers_are_no_barcodes(tmp_path, header, first) -> None:
    adata = section([str(i) for i in range(30)])
    want = truth(30)
    order = np.random.default_rng(0).permutation(30)
    path = tmp_path / "t.csv"
    path.write_text(header + "\n" + "".join(f"{r + first},{i},{want[i]}\n" for r, i in enumerate(order)))
    stc.io.read_annotation(adata, path)
    assert labels(adata) == want


def test_row_numbers_do_not_stand_in_for_named_barcodes(tmp_path) -> None:
    adata = section([str(i) for i in range(30)])
    path = tmp_path / "t.csv"
    path.write_text(",cell_id,layer\n" + "".join(f"{i},other{i}x,A\n" for i in range(30)))
    with pytest.raises(ValueError, match="first: 'other0x'"):
        stc.io.read_annotation(adata, path)
    path.write_text(",layer\n" + "".join(f"{i},{'AB'[i % 2]}\n" for i in range(30)))  # an index that is the barcodes
    stc.io.read_annotation(adata, path)
    assert labels(adata) == ["A", "B"] * 15


def test_barcodes_of_several_sections(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        both = ad.concat([section(BARCODES), section(BARCODES)], label="slide", keys=["S1", "S2"])
    one, two = truth(len(BARCODES)), ["C"] * len(BARCODES)
    first, second = write(tmp_path / "1.csv", BARCODES, one), write(tmp_path / "2.csv", BARCODES, two)
    with pytest.raises(ValueError, match=r"occurs more than once in the data.*section_key="):
        stc.io.read_annotation(both, first)
    with pytest.raises(ValueError, match="needs section_key="):
        stc.io.read_annotation(both, {"S1": first})
    with pytest.raises(KeyError, match="'nope' is not a column"):
        stc.io.read_annotation(both, {"S1": first}, section_key="nope")
    with pytest.raises(ValueError, match="in section 'S3'; there are: S1, S2"):
        stc.io.read_annotation(both, {"S3": first}, section_key="slide")
    stc.io.read_annotation(both, {"S1": first}, section_key="slide")
    assert labels(both) == one + [None] * len(BARCODES)
    stc.io.read_annotation(both, {"S2": second, "S1": first}, "every", section_key="slide")
    assert labels(both, "every") == one + two
    table = tmp_path / "both.csv"
    rows = [("S1", b, v) for b, v in zip(BARCODES, one, strict=True)] + [("S2", b, "C") for b in BARCODES]
    pd.DataFrame(rows, columns=["Slide", "barcode", "drawn"]).sample(frac=1, random_state=0).to_csv(table, index=False)
    stc.io.read_annotation(both, table, "table", section_key="slide")
    assert labels(both, "table") == one + two
    with pytest.raises(ValueError, match="has no column 'slide'"):
        stc.io.read_annotation(both, first, section_key="slide")


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbf"Barcode","layer"\r\n"a","outer\r\nlayer"\r\n"b","x, y"\r\n',
        'Barcode;layer\na;"outer\nlayer"\nb;x, y\n'.encode("utf-16"),
        b'sep=;\r\nBarcode;layer\r\na;"outer\r\nlayer"\r\nb;x, y\r\n',
        b'# made by hand, on Monday\n# twice\nBarcode\tlayer\na\t"outer\nlayer"\nb\tx, y\n',
        b'"#Barcode";"layer";;\n"a";"outer\nlayer";;\n\n"b";"x, y";;\n;;;\n',
        b'"layer"\n"a"\t"outer\nlayer"\n"b"\t"x, y"\n',
        gzip.compress(b'Barcode,layer\ra,"outer\rlayer"\rb,"x, y"\r', mtime=0),
    ],
)
def test_tables_as_people_save_them(tmp_path, data) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    adata = section(["a", "b"])
    stc.io.read_annotation(adata, path)
    assert labels(adata) == ["outer\nlayer", "x, y"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"# only this\n", "is empty"),
        (b"Barcode,layer\n", "a header and nothing below"),
        (b"Barcode\na\nb\n", "one column only"),
        (b"Barcode,layer\na,x\nb,x,y\n", "line 3: 3 columns, but the header names 2"),
        (b'Barcode,layer\na,"x\nb,y\n', "quotation mark is not closed"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"\x1f\x8bjunk", "truncated or corrupt"),
        (b"a\x00\xff,b\n1,2\n", "not a text table"),
        (b"Barcode,layer\na,x\x00y\nb,z\n", "control character"),
        (b"Barcode,layer\na," + b"x" * 140_000 + b"\nb,z\n", "more than 131072 characters"),
        (b"Barcode,layer\na," + b"x" * 1_000 + b"\nb,z\n", "1000 characters long"),
        (b"Barcode,layer,layer\na,x,y\nb,x,y\n", "2 columns are called 'layer'"),
        (b",barcode\n0,a\n1,b\n", "no column with labels"),
    ],
)
def test_what_is_no_table_of_labels_is_one_clear_line(tmp_path, data, message) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    limit = csv.field_size_limit()
    with pytest.raises(ValueError, match=message):
        stc.io.read_annotation(section(["a", "b"]), path)
    assert csv.field_size_limit() == limit


def test_old_spreadsheets_are_read_and_said(tmp_path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("Barcode,layer\na,\u00e9pith\u00e9lium\n".encode("cp1252"))
    sheet = read_sheet(path)
    assert sheet.rows == [["a", "\u00e9pith\u00e9lium"]]
    assert "Windows-1252" in sheet.remarks[0]


def test_numbers_are_not_taken_for_labels(tmp_path) -> None:
    names = [f"{b}-1" for b in BARCODES]
    adata = section(names)
    rng = np.random.default_rng(0)
    for values in (rng.random(64).round(3), rng.random(64).round(1), rng.integers(0, 5000, 64)):
        path = write(tmp_path / "t.csv", names, [str(v) for v in values])
        with pytest.raises(ValueError, match="measurements"):
            stc.io.read_annotation(adata, path)
    with pytest.raises(ValueError, match="looks like names"):
        stc.io.read_annotation(adata, write(tmp_path / "t.csv", names, names, "Barcode,layer"), column="layer")
    clusters = [f"{i % 3}.0" if i % 7 else "" for i in range(64)]  # whole numbers beside gaps, as pandas writes them
    stc.io.read_annotation(adata, write(tmp_path / "t.csv", names, clusters))
    assert labels(adata) == [c.removesuffix(".0") or None for c in clusters]
    nested = [f"{i % 2}.{i % 3 + 1}" for i in range(64)]
    with pytest.raises(ValueError, match="name the column with column="):
        stc.io.read_annotation(adata, write(tmp_path / "t.csv", names, nested))
    stc.io.read_annotation(adata, path, column="layer")
    assert labels(adata) == nested


def test_words_that_mean_missing_in_a_file(tmp_path, caplog) -> None:
    adata = section(BARCODES[:6])
    path = write(tmp_path / "t.csv", BARCODES[:6], ["A", "B", "NA", "", "Unknown", "unassigned"])
    with (
        pytest.warns(UserWarning, match=r"2 spots have a label that means missing \('Unknown' 1, 'unassigned' 1\)"),
        caplog.at_level(logging.INFO, "st_concepts.io"),
    ):
        stc.io.read_annotation(adata, path)
    assert labels(adata) == ["A", "B", None, None, None, None]
    assert "4 without a label ('NA' 1)" in caplog.text
    stc.io.read_annotation(adata, path, missing="unassigned")
    assert labels(adata) == ["A", "B", "NA", None, "Unknown", None]
    with pytest.warns(UserWarning, match="'unassigned' 1"):
        stc.io.read_annotation(adata, path, categories=["A", "B", "Unknown"])
    assert labels(adata) == ["A", "B", None, None, "Unknown", None]
