"""Positions of Space Ranger in the forms of all versions and of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from tests.io._readers.space_ranger import headerless, positions_of, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:(?!st_concepts)"),
]


@pytest.mark.parametrize(
    "write",
    [
        headerless,
        lambda t, p: headerless(t.assign(note="a"), p),
        lambda t, p: t.assign(note=1).to_csv(p, index=False),
        lambda t, p: t[t.columns[::-1]].to_csv(p, index=False),
        lambda t, p: t.to_csv(p),
        lambda t, p: t.to_csv(p, index=False, sep="\t"),
        lambda t, p: t.set_index("barcode").rename_axis(None).to_csv(p),
        lambda t, p: t.to_csv(p.with_name("tissue_positions.csv.gz"), index=False),
        lambda t, p: t.to_parquet(p.with_suffix(".parquet")),
        lambda t, p: t.set_index("barcode").to_parquet(p.with_suffix(".parquet")),
        lambda t, p: p.write_bytes(b"\xef\xbb\xbf" + t.to_csv(index=False, lineterminator="\r\n").encode()),
    ],
    ids=["list", "list+", "more", "order", "index", "tabs", "unnamed", "gz", "parquet", "parquet index", "bom crlf"],
)
def test_positions_in_every_form(
    visium_folder: Path, whole: AnnData, write: Callable[[pd.DataFrame, Path], None]
) -> None:
    path, table = positions_of(visium_folder)
    path.unlink()
    write(table, path)
    adata = stc.io.read(visium_folder)
    same(adata, whole)
    assert adata.obs["in_tissue"].eq(1).all()
    assert adata.obs["array_col"].tolist() == whole.obs["array_col"].tolist()


def test_more_columns_of_the_positions_are_kept(visium_folder: Path) -> None:
    path, table = positions_of(visium_folder)
    table.assign(layer=np.where(table["array_row"] < 2, "top", "bottom")).to_csv(path, index=False)
    adata = stc.io.read(visium_folder)
    assert (adata.obs["layer"] == np.where(adata.obs["array_row"] < 2, "top", "bottom")).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(columns="pxl_row_in_fullres"),
            r"no column pxl_row_in_fullres; expected a table",
        ),
        (lambda t: t.assign(pxl_row_in_fullres="far"), r"pxl_row_in_fullres of barcode \w+-1 is 'far', not a number"),
        (lambda t: t.assign(pxl_col_in_fullres=np.inf), r"pxl_col_in_fullres of barcode \w+-1 is 'inf'"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "occurs more than once"),
        (lambda t: t.assign(barcode=[f"x{i}" for i in range(len(t))]), "30 of 30 barcodes .* different sections"),
    ],
)
def test_broken_positions(visium_folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    path, table = positions_of(visium_folder)
    change(table).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message) as caught:
        stc.io.read(visium_folder)
    assert "\n" not in str(caught.value)


def test_barcodes_without_their_suffix(visium_folder: Path, whole: AnnData) -> None:
    path, table = positions_of(visium_folder)
    table.assign(barcode=table["barcode"].str.removesuffix("-1")).to_csv(path, index=False)
    with pytest.warns(UserWarning, match="barcodes are matched without prefix and suffix"):
        same(stc.io.read(visium_folder), whole)
