from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_concepts.concepts import Membership, from_labels, from_masks, from_scores
from st_concepts.concepts._membership import check_names


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "L2/3", None]), min_size=2, max_size=30),
    st.sampled_from(["str", "cat", "string"]),
)
def test_one_against_the_rest_by_hand(labels: list[str | None], kind: str) -> None:
    column = pd.Series(labels, dtype=object, name="layer")
    column = {"str": column, "cat": column.astype("category"), "string": column.astype("string")}[kind]
    if column.isna().all():
        with pytest.raises(ValueError, match="Every spot is unlabelled in 'layer'"):
            from_labels(column)
        return
    made = from_labels(column)
    assert made.names == sorted({x for x in labels if x is not None})
    for j, name in enumerate(made.names):
        assert made.members[:, j].tolist() == [-1 if x is None else int(x == name) for x in labels]


def test_integer_labels_become_their_text() -> None:
    assert from_labels(pd.Series([3, 1, 3])).names == ["1", "3"]


def test_order_of_the_categories_is_kept_and_unused_ones_are_left_out() -> None:
    column = pd.Series(pd.Categorical(["z", "a"], categories=["z", "unused", "a"]))
    assert from_labels(column).names == ["z", "a"]


def test_reference() -> None:
    column = pd.Series(["a", "b", "c", "b", None])
    one = from_labels(column, groups=["a"], reference="b")
    assert one.members.ravel().tolist() == [1, 0, -1, 0, -1]
    several = from_labels(column, groups=["a"], reference=["b", "c"])
    assert several.members.ravel().tolist() == [1, 0, 0, 0, -1]
    assert from_labels(column, reference="b").names == ["a", "c"]  # the reference is no concept of its own


def test_a_label_called_rest_is_a_label_and_can_be_the_reference() -> None:
    column = pd.Series(["a", "b", "rest"])
    every = from_labels(column)
    assert every.names == ["a", "b", "rest"]
    assert every.members.tolist() == np.eye(3).tolist()
    assert from_labels(column, reference="rest").members.tolist() == every.members.tolist()
    made = from_labels(column, reference=["rest"])
    assert made.names == ["a", "b"]
    assert made.members.tolist() == [[1, -1], [-1, 1], [0, 0]]


@pytest.mark.parametrize("options", [{"groups": ["x"]}, {"reference": "x"}])
def test_a_label_that_does_not_occur(options: dict) -> None:
    with pytest.raises(ValueError, match="No spot is labelled 'x' in 'layer'; the labels are: a, b"):
        from_labels(pd.Series(["a", "b"], name="layer"), **options)


@pytest.mark.parametrize(
    "mask",
    [
        [True, False, None],
        np.array([True, False, None], dtype=object),
        pd.array([True, False, pd.NA], dtype="boolean"),
        pd.Series([True, False, np.nan], dtype=object),
    ],
)
def test_masks_with_missing_values(mask: object) -> None:
    assert from_masks({"m": mask}, 3).members.ravel().tolist() == [1, 0, -1]


def test_bad_masks() -> None:
    with pytest.raises(ValueError, match="Mask 'm' has 2 entries for 3 spots"):
        from_masks({"m": [True, False]}, 3)
    with pytest.raises(ValueError, match="must be boolean"):
        from_masks({"m": [1, 0, 2]}, 3)


def test_check_refuses_no_spots_and_warns_below_three() -> None:
    with pytest.raises(ValueError, match="'a' has no labelled spot"):
        Membership(["a"], np.array([[0], [-1]], dtype=np.int8)).check()
    with pytest.raises(ValueError, match="no spot to compare with"):
        Membership(["a"], np.array([[1], [-1]], dtype=np.int8)).check()
    with pytest.warns(UserWarning, match="'a' rests on 2 labelled spots"):
        Membership(["a"], np.array([[1], [1], [0]], dtype=np.int8)).check()
    three = Membership(["a"], np.array([[1], [1], [1], [0]], dtype=np.int8))
    assert three.check() is three


def test_from_scores_takes_high_spots_and_at_least_one() -> None:
    scores = np.array([[2.0, 0.1], [1.1, 0.5], [-3.0, 0.2]])
    assert from_scores(["a", "b"], scores).members.tolist() == [[1, 0], [1, 1], [0, 0]]


def test_groups_and_names() -> None:
    column = pd.Series([1.0, 2.0, np.nan, 3.0])
    assert from_labels(column, groups=[1.0], reference=[2]).members.ravel().tolist() == [1, 0, -1, -1]
    assert from_labels(column, groups="3").names == ["3"]
    with pytest.raises(ValueError, match="No label is left to make a concept of"):
        from_labels(column, groups=[])
    with pytest.raises(ValueError, match=r"Every spot is unlabelled.*'unknown' 2"):
        from_labels(pd.Series(["unknown", "unknown"]))
    with pytest.raises(ValueError, match="Two concepts have the same name: 1"):
        from_masks({1: [True], "1": [False]}, 1)
    with pytest.raises(ValueError, match="a name is empty"):
        check_names([" "])
