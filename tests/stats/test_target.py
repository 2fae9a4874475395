from __future__ import annotations

import numpy as np
import pytest

from st_concepts.stats import RANKED, TARGETS, Targets

SCORE, LABEL = np.array([[1.0], [2.0], [3.0]]), np.array([[0.0], [1.0], [np.nan]])
USABLE = np.array([True, True, False])


@pytest.mark.parametrize(
    ("target", "defined", "tested_by", "ranked_by"),
    [
        ("auto", True, "score", "both"),
        ("auto", False, "score", "score"),
        ("score", True, "score", "score"),
        ("both", True, "label", "both"),
        ("label", True, "label", "label"),
    ],
)
def test_what_genes_are_tested_against_and_ranked_by(target, defined, tested_by, ranked_by) -> None:
    found = Targets.choose(target, SCORE, LABEL, USABLE, defined=defined)
    assert (found.tested_by, found.ranked_by) == (tested_by, ranked_by)
    expected = SCORE if tested_by == "score" else LABEL
    np.testing.assert_array_equal(found.tested, np.where(USABLE[:, None], expected, np.nan))


def test_every_target_is_said_in_words() -> None:
    assert set(RANKED) == set(TARGETS)
