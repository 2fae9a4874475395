"""The one cleaning step of labels: what is missing, what is no label, which labels are the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_concepts._counts.labels import MISSING, clean_labels, fold, is_boolean, looks_measured
from st_concepts.concepts import from_labels


@settings(deadline=None)
@given(st.sampled_from(MISSING), st.sampled_from([str, str.upper, str.title]), st.sampled_from(["{}", " {} ", "<{}>"]))
def test_words_that_mean_missing_are_missing_in_every_spelling(word, case, around) -> None:
    written = around.format(case(word))
    made = clean_labels(pd.Series(["a", "b", written, None, "", np.nan]))
    assert made.names == ["a", "b"]
    assert made.codes.tolist() == [0, 1, -1, -1, -1, -1]
    assert sum(made.taken.values()) == 2  # the word and the empty text; real gaps need no word
    assert "2 spots have a label that means missing" in made.said()[0]


def test_the_words_can_be_named_and_a_word_asked_for_is_a_label() -> None:
    column = pd.Series(["a", "unknown", "Off_Tissue"])
    assert clean_labels(column).names == ["Off_Tissue", "a"]
    assert clean_labels(column, missing="off tissue").names == ["a", "unknown"]
    assert clean_labels(column, missing=[]).names == ["Off_Tissue", "a", "unknown"]
    assert clean_labels(column, keep=["unknown"]).names == ["Off_Tissue", "a", "unknown"]
    assert from_labels(column, reference="unknown").names == ["Off_Tissue", "a"]
    with pytest.raises(ValueError, match="missing= takes words"):
        clean_labels(column, missing=[None])


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pd.Series([10, 2, 2]), ["2", "10"]),
        (pd.Series([10.0, np.nan, 2.0]), ["2", "10"]),
        (pd.Series([10, 2, None], dtype="Int64"), ["2", "10"]),
        (pd.Series(["x", 3, 2.0], dtype=object), ["2", "3", "x"]),
        (pd.Series(pd.Categorical(["z", "a"], categories=["z", "q", "a"], ordered=True)), ["z", "a"]),
        (pd.Series(pd.Categorical([0.5, 0.25])), ["0.25", "0.5"]),
        (pd.Series([True, False, None]), ["False", "True"]),
        (np.array([b"L1", b"L2"]), ["L1", "L2"]),
        (pd.Series(["b", pd.NA], dtype="string"), ["b"]),
        (pd.Series([], dtype=object), []),
    ],
)
def test_labels_of_any_type_become_text(column, names) -> None:
    assert clean_labels(column).names == names


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series([1, "1"], dtype=object), "the number 1 and the text '1', which read the same"),
        (pd.Series([True, "True"], dtype=object), "the truth value True and the text 'True'"),
        (pd.Series(pd.Categorical([1, "1"])), "which read the same"),
        (pd.Series([0.5, 1.0]), "holds measurements, not labels"),
        (pd.Series([0.5, None], dtype=object), "holds measurements, not labels"),
        (pd.Series([1.0, np.inf]), "holds measurements, not labels"),
        (pd.Series([1 + 2j]), "holds measurements, not labels"),
        (pd.Series([str(i / 7) for i in range(20)] * 5), "holds measurements, not labels"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "holds dates"),
        (pd.Series([[1], [2]]), "is no label, but a list"),
        (pd.Series(["a\0b", "c"]), "control character 0x0"),
        (pd.Series(["\ud800", "c"]), "control character 0xd800"),
        (pd.Series(["x" * 300, "c"]), "300 characters long"),
        (pd.Series([f"cell {i}" for i in range(11)]), "looks like names"),
    ],
)
def test_what_is_no_label_is_refused(column, message) -> None:
    with pytest.raises(ValueError, match=message):
        clean_labels(column)


def test_labels_never_merge_without_a_word() -> None:
    made = clean_labels(pd.Series(["L1", "L1 ", "\u00a0L1", "l1", "1", "1.0", "\u00e9", "e\u0301", "L2/3", "L2_3"]))
    assert made.names == ["1", "1.0", "L1", "L2/3", "L2_3", "e\u0301", "l1", "\u00e9"]
    joined, apart = made.remarks
    assert "blanks around them only are taken as one: 'L1'" in joined
    assert "'1' and '1.0'" in apart
    assert "'L1' and 'l1'" in apart
    assert clean_labels(pd.Series(["a", "b"])).said() == []


def test_fold_looks_measured_and_booleans() -> None:
    assert fold("[Not_Assigned]") == "not assigned"
    assert not looks_measured(["1.1", "1.2", "2.1"])
    assert is_boolean(pd.Series([True, None]))
    assert not is_boolean(pd.Series([None, None]))
    assert not is_boolean(pd.Series(pd.Categorical([True, False])))
