"""A store is exchanged for another in one step, or by two renames that a journal tells of."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from st_concepts._files import repair, swap, sweep, whole_file, whole_folder
from tests._files.stores import SETTLED, anything, child, hidden, store, text_of

EXCHANGED = """
import os, shutil, signal, sys
from pathlib import Path
from st_concepts._files import swap, temporary, whole_folder
folder = Path(sys.argv[1])
if sys.argv[2] == "journal":
    swap._system_call = lambda: None

def killed_at(step):
    calls = []
    def counted(call):
        def stops(*args, **kwargs):
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(1)
            return call(*args, **kwargs)
        return stops
    for module, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "fsync"), (os, "chmod"),
                         (os, "open"), (swap, "exchange")):
        setattr(module, name, counted(getattr(module, name)))
    with whole_folder(folder / str(step) / "b.zarr", lambda _: True) as part:
        (part / "inner").mkdir(parents=True)
        (part / "inner" / "a").write_text("new")

for step in range(100):
    (folder / str(step) / "b.zarr" / "inner").mkdir(parents=True)
    (folder / str(step) / "b.zarr" / "inner" / "a").write_text("old")
    child = os.fork()
    if not child:
        killed_at(step)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        print(step)
        break
"""


@pytest.mark.parametrize("way", ["system call", "journal"])
def test_a_store_that_is_killed_at_any_step_opens_as_the_old_or_the_new_one(tmp_path, way):
    if way == "system call" and not _can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two folders")
    with child(EXCHANGED, tmp_path, way) as running:
        steps = int(running.stdout.read())
    assert steps >= 8
    seen, missing = [], 0
    for step in range(steps + 1):  # the last of them nobody killed
        folder = tmp_path / str(step)
        path = folder / "b.zarr"
        missing += not path.exists()
        repair(path)  # what every read begins with
        seen.append(text_of(path))
        with whole_file(folder / "next.csv") as part:
            part.write_text("")
        assert hidden(folder) == []
        assert text_of(path) == seen[-1]
    assert seen == sorted(seen, reverse=True)  # old up to some step, new from there
    assert set(seen) == {"old", "new"}
    assert missing == (way == "journal")


def _can_exchange(folder: Path) -> bool:
    a, b = store(folder / "a", "a"), store(folder / "c", "b")
    return swap.exchange(a, b) and text_of(a) == "b"


@pytest.fixture
def no_call(monkeypatch):
    monkeypatch.setattr(swap, "_system_call", lambda: None)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_rename_that_fails_leaves_the_old_store(tmp_path, no_call, monkeypatch, failing):
    path = store(tmp_path / "b.zarr", "old")
    real, calls = os.rename, []

    def fails(a, b):
        calls.append(1)
        if len(calls) in (failing, *([2] if failing == 3 else [])):
            raise PermissionError(errno.EACCES, "Permission denied", str(a))
        real(a, b)

    monkeypatch.setattr(os, "rename", fails)
    monkeypatch.setattr(swap, "_PATIENCE", 0.1)
    with pytest.raises(PermissionError), whole_folder(path, anything) as part:
        store(part, "new")
    monkeypatch.setattr(os, "rename", real)
    if failing == 3:  # not even the way back: the old store is kept aside, and the next read finds it
        assert not path.exists()
        repair(path)
    assert text_of(path) == "old"
    sweep(tmp_path)
    assert hidden(tmp_path) == []


def test_a_reader_waits_for_the_process_between_the_renames(tmp_path, no_call, monkeypatch):

    path = store(tmp_path / "b.zarr", "old")
    real, between = os.rename, threading.Event()

    def slow(a, b):
        if b == path:
            between.set()
            time.sleep(0.2)
        real(a, b)

    def write() -> None:
        with whole_folder(path, anything) as part:
            store(part, "new")

    monkeypatch.setattr(os, "rename", slow)
    writer = threading.Thread(target=write)
    writer.start()
    assert between.wait(SETTLED)
    assert not path.exists()
    repair(path / "inner")
    assert text_of(path) == "new"
    writer.join()
    assert hidden(tmp_path) == []


def test_a_journal_of_others_moves_nothing(tmp_path):
    (tmp_path / "precious").write_text("x")
    journal = swap._journal_of(tmp_path / "b.zarr")
    for text in ("", "{", "[]", '{"store": "b.zarr", "new": "precious", "old": "../x"}', '{"store": 1}'):
        journal.write_text(text)
        repair(tmp_path / "b.zarr")
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([journal.name, "precious"])


@pytest.mark.parametrize("place", ["file", "other folder", "pipe"])
def test_only_a_store_is_replaced_by_a_store(tmp_path, place):
    path = tmp_path / "b.zarr"
    if place == "file":
        path.write_text("x")
    elif place == "pipe":
        os.mkfifo(path)
    else:
        store(path, "x")
    with pytest.raises(ValueError, match=r"not replaced|only a regular file"), whole_folder(path, lambda _: False):
        raise AssertionError("got in")
    assert hidden(tmp_path) == []
