"""Text in tables cannot become a formula, numbers stay numbers, and names come back."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_concepts._spreadsheet import raw_text, safe_text, spreadsheet_safe
from st_concepts.cli._files import write_csv

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\ufeff=1",
    "\u200b-1",
    "\uff1d1",
    "\tplain",
    "=",
]
HARMLESS = ["L2/3", "a=b", "a-1", "'5 end", "", "<b>x</b>", 'a"b', "outer\nlayer", "1-Mar", "x\t=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_like_a_formula_gets_an_apostrophe(text: str) -> None:
    assert safe_text(text) == "'" + text
    assert raw_text(safe_text(text)) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_stays(text: str) -> None:
    assert safe_text(text) == text
    assert raw_text(text) == text


@given(st.text(st.sampled_from("'=+-@\t\r\n aB1<,\"\ufeff\uff1d"), max_size=6))
def test_names_come_back(text: str) -> None:
    safe = safe_text(text)
    assert raw_text(safe) == text
    assert safe.lstrip(" \t\r\n\ufeff")[:1] not in tuple("=+-@")


@pytest.mark.parametrize("kind", [object, "string", "category"])
def test_every_kind_of_text_column_and_names_of_columns(kind: str | type) -> None:
    frame = pd.DataFrame({"=name": pd.Series(["=A1", "b", None], dtype=kind), "score": [-1.5, np.nan, 2.0]})
    frame["n"] = [-1, 0, 1]
    frame.index = ["@x", "y", "z"]
    before = frame.copy()
    safe = spreadsheet_safe(frame)
    assert list(safe) == ["'=name", "score", "n"]
    assert list(safe.index) == ["'@x", "y", "z"]
    assert safe["'=name"].tolist()[:2] == ["'=A1", "b"]
    assert pd.isna(safe["'=name"].iloc[2])
    pd.testing.assert_frame_equal(
        safe[["score", "n"]].reset_index(drop=True), before[["score", "n"]].reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(frame, before)


def test_mixed_columns_and_the_same_name_twice() -> None:
    frame = pd.DataFrame([[-1, "=x"], ["-1", "y"]], columns=["a", "a"])
    assert spreadsheet_safe(frame).to_numpy().tolist() == [[-1, "'=x"], ["'-1", "y"]]


def test_files_hold_the_names(tmp_path: Path) -> None:
    names = [*FORMULAS, *[n for n in HARMLESS if n], "a\rb", "a\r\nb", "</script>", "a,b", "'"]
    table = pd.DataFrame({"names": names, "scores": -np.arange(len(names), dtype=float)})
    write_csv(table, tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert [raw_text(name) for name, _ in rows] == names
    assert [float(score) for _, score in rows] == table["scores"].tolist()
    back = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert back["names"].map(raw_text).tolist() == names
    assert not back["names"].str.match(r"[=+\-@\t\r]").any()
