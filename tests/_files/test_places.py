"""Which of two paths is the other, lies in it or leads to it."""

from __future__ import annotations

import os

from st_concepts import _files
from st_concepts._files import relation
from tests._files.stores import store


def test_relation_sees_through_links_and_case(tmp_path):

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_text("")
    (tmp_path / "l").symlink_to("a")
    os.link(tmp_path / "a" / "f", tmp_path / "h")
    a = tmp_path / "a"
    assert relation(tmp_path / "l" / ".." / "a", a) == "is"
    assert relation(tmp_path / "h", a / "f") == "is"
    assert relation(tmp_path / "l" / "new" / "x", a) == "lies in"
    assert relation(tmp_path, tmp_path / "l" / "f") == "contains"
    assert relation(tmp_path / "ab", a) is None
    # of two that are not there, on a disk that may not tell them apart
    assert relation(tmp_path / "New.csv", tmp_path / "nEW.csv") == "is"
    assert relation(tmp_path / "caf\u00e9", tmp_path / "cafe\u0301" / "x") == "contains"


def test_links_in_a_folder_lead_to_further_inputs(tmp_path):
    folder = store(tmp_path / "in", "x")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b").write_text("")
    (tmp_path / "c").write_text("")
    (folder / "inner" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "c").symlink_to(tmp_path / "c")
    (folder / "up").symlink_to(tmp_path)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    assert sorted(_files.linked_from(folder)) == [tmp_path / "c", tmp_path / "far"]
    os.link(folder / "inner" / "a", tmp_path / "twin")
    assert _files.hard_linked(folder, tmp_path / "twin") == folder / "inner" / "a"
    assert _files.hard_linked(folder, tmp_path / "c") is None
