"""Classic ST beyond the plain table: genes that occur again, sections in names, label tables by columns."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import st_concepts
from st_concepts.io import read_st
from st_concepts.io._readers.spot_names import is_spot_name, parse_spot_names, spot_sections


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    return write(tmp_path / "c.tsv", "\tPenk\tOmp\n2x3\t1\t2\n3x3\t3\t0\n2x4\t1\t1\n")


def test_genes_that_occur_again_get_a_number(tmp_path):
    path = write(tmp_path / "twice.tsv", "\tPenk\tOmp\tPenk\tPenk\n17x9\t3\t1\t0\t2\n18x9\t0\t5\t2\t0\n")
    for read in (read_st, st_concepts.io.read):
        adata = read(path)
        assert adata.var_names.tolist() == ["Penk", "Omp", "Penk-1", "Penk-2"]
        assert adata.var["gene_symbols"].tolist() == ["Penk", "Omp", "Penk", "Penk"]
        np.testing.assert_array_equal(adata.X.toarray(), [[3, 1, 0, 2], [0, 5, 2, 0]])


@pytest.mark.parametrize("form", ["1x{}x{}", "X{}x{}", "S1_{}x{}", "{}x{}_1", "X1x{}x{}", "sample.{}x{}", "X{}_{}"])
def test_spots_named_by_section_and_position(tmp_path, form):
    at = [(17, 9), (18, 9), (18, 10), (3, 33)]
    names = [form.format(x, y) for x, y in at]
    for transposed in (False, True):
        lines = [["", "Penk", "Omp"], *([name, "3", "1"] for name in names)]
        lines = [list(column) for column in zip(*lines, strict=True)] if transposed else lines
        path = write(tmp_path / "named.tsv", "\n".join("\t".join(line) for line in lines) + "\n")
        adata = read_st(path)
        np.testing.assert_array_equal(adata.obsm["spatial"], at)
        assert adata.obs["section"].unique().tolist() == ["named"]


@settings(max_examples=40, deadline=None)
@given(
    x=st.decimals(0, 99, places=2),
    y=st.decimals(0, 99, places=2),
    section=st.sampled_from(["1", "S1", "D2_rep3", "mouse"]),
    around=st.sampled_from([("{}_", ""), ("{}x", ""), ("", "_{}"), ("X{}_", "")]),
)
def test_coordinates_are_found_within_names(x, y, section, around):
    name = f"{around[0]}{x}x{y}{around[1]}".replace("{}", section)
    (got,) = parse_spot_names([name], where="here")
    assert got.tolist() == [float(x), float(y)]
    assert spot_sections([name]) == [section]


@pytest.mark.parametrize(
    "name", ["Penk", "H2-K1", "1700016K19Rik", "s_008um_00010_00020-1", "ACGTACGTACGT-1", "x", "1x", "5_"]
)
def test_genes_and_barcodes_are_no_positions(name):
    assert not is_spot_name(name)


def test_a_table_of_several_sections(tmp_path):
    path = write(tmp_path / "both.tsv", "\tPenk\tOmp\n1x17x9\t3\t0\n1x18x9\t0\t5\n2x17x9\t1\t1\n")
    adata = read_st(path)
    assert adata.obs["section"].tolist() == ["1", "1", "2"]
    with pytest.raises(ValueError, match=r"its spots are of 2 sections .*image= belongs to one"):
        read_st(path, image=np.zeros((10, 10), np.uint8))


LABELS = {
    "x and y": "x\ty\tlabel\n2\t3\ta\n3\t3\tb\n2\t4\t\n",
    "y first, commas": "label,y,x\na,3,2\nb,3,3\nNA,4,2\n",
    "row numbers": ",x,y,label\n0,2,3,a\n1,3,3,b\n2,2,4,\n",
    "no corner": "x\ty\tlabel\n1\t2\t3\ta\n2\t3\t3\tb\n3\t2\t4\tNA\n",
    "names and pixels": "Row.names\tadj_x\tadj_y\tpixel_x\tpixel_y\tlabel\tx\ty\n"
    "2x3\t2.01\t3.02\t90.1\t80\ta\t2\t3\n3x3\t3.01\t3\t95\t80\tb\t3\t3\n2x4\t2\t4.01\t90\t99\tundefined\t2\t4\n",
    "positions that are missing": "x\ty\tlabel\n2\t3\ta\n3\t3\tb\nNA\tNA\ta\n",
    "text of another kind": "x\ty\tlabel\tslide\n2\t3\ta\tS1\n3\t3\tb\tS1\n2\t4\t\tS1\n",
    "numbers": "x\ty\tcluster\n2\t3\ta\n3\t3\tb\n2\t4\tNA\n",
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_by_columns(tmp_path, counts, form):
    path = write(tmp_path / "labels.tsv", LABELS[form])
    adata = read_st(counts, annotation=path)
    assert adata.obs["layer"].astype(object).where(adata.obs["layer"].notna(), None).tolist() == ["a", "b", None]
    adata = read_st(counts)
    said = pytest.warns(UserWarning, match="'undefined' 1") if "undefined" in LABELS[form] else nullcontext()
    with said:
        st_concepts.io.read_annotation(adata, path, key="layer", column="label" if "label" in LABELS[form] else None)
    assert adata.obs["layer"].tolist()[:2] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\ty\tone\ttwo\n2\t3\ta\tb\n3\t3\tc\td\n", "which column holds the labels.*column=: one, two"),
        ("x\ty\tlabel\n2\t3\ta\n3\t3\n", "line 3: 2 columns, but the header names 3"),
        ("spot\ta\tb\n2x3\t1\t0\n3x3\t0\tyes\n", "'yes' is neither 0 nor 1"),
    ],
)
def test_label_columns_that_are_not_clear(tmp_path, counts, text, message):
    with pytest.raises(ValueError, match=message):
        read_st(counts, annotation=write(tmp_path / "labels.tsv", text))
