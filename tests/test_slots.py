from __future__ import annotations

from st_concepts._slots import safe_labels


def test_safe_labels_are_distinct_keys_of_a_store() -> None:
    names = ["Tumor", "tumor", "tumor_1", "L2/3", "L2\\3", "L2_3", ".", "..", ".zattrs", "_index", "rest"]
    made = safe_labels(names)
    assert made[0] == "Tumor"
    assert made[2] == "tumor_1"
    assert made[5] == "L2_3"
    assert made[-1] == "rest"
    assert len({label.casefold() for label in made}) == len(names)
    assert not any(set(label) & set("/\\") or label.startswith(".") or label == "_index" for label in made)
