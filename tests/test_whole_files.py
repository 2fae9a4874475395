from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from st_concepts import _files
from st_concepts._files import beside, repair, swap, sweep, temporary, whole_file, whole_folder

SETTLED = 20.0  # seconds that a child process may take


def anything(_: Path) -> bool:
    return True


def store(path: Path, text: str) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "a").write_text(text)
    return path


def text_of(path: Path) -> str:
    return (path / "inner" / "a").read_text()


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


# ------------------------------------------------------------------------------------------- files


def test_a_file_is_whole_or_what_it_was(tmp_path):
    path = tmp_path / "a.csv"
    with whole_file(path) as part:
        part.write_text("one")
        assert not path.exists()
        assert part.suffix == ".csv"
    assert path.read_text() == "one"
    writing = whole_file(path)
    writing.__enter__().write_text("two")
    assert writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is False
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_link_stays_and_a_hard_link_keeps_what_it_had(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    (tmp_path / "link.csv").symlink_to("a.csv")
    (tmp_path / "new.csv").symlink_to("made.csv")
    os.link(path, tmp_path / "twin.csv")
    for name in ("link.csv", "new.csv"):
        with whole_file(tmp_path / name) as part:
            part.write_text("new")
        assert (tmp_path / name).is_symlink()
    assert path.read_text() == (tmp_path / "made.csv").read_text() == "new"
    assert (tmp_path / "twin.csv").read_text() == "old"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_are_handed_on_from_the_first_byte(tmp_path, mode):
    path = tmp_path / "a.csv"
    path.write_text("old")
    path.chmod(mode)
    with whole_file(path) as part:
        assert stat.S_IMODE(part.stat().st_mode) == mode
        part.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "b.csv") as part:
            part.write_text("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "b.csv").stat().st_mode) == 0o640


def _pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe"


def _socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    return "is a socket"


def _device(path: Path) -> str:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError:
        pytest.skip("devices cannot be made here")
    return "is a device"


def _folder(path: Path) -> str:
    store(path, "precious")
    return "is a folder"


def _lost(path: Path) -> str:
    path.symlink_to(path.parent / "unplugged" / "a.csv")
    return "is a link to .*whose folder does not exist"


def _circle(path: Path) -> str:
    path.symlink_to(path)
    return "no usable path"


@pytest.mark.parametrize("make", [_pipe, _socket, _device, _folder, _lost, _circle])
@pytest.mark.parametrize("through", ["directly", "link"])
def test_only_a_regular_file_is_replaced(tmp_path, make, through, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    said, path = make(Path("thing.csv")), tmp_path / "thing.csv"
    before = path.lstat()
    if through == "link":
        (tmp_path / "link.csv").symlink_to(path)
        path, said = tmp_path / "link.csv", said.replace("is a link to ", "is a link to |no usable")
    with pytest.raises(ValueError, match=said) as caught, whole_file(path) as part:
        part.write_text("new")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "thing.csv").lstat().st_ino == before.st_ino
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/new"])
def test_places_of_the_system_are_no_files(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        with pytest.raises(ValueError, match="place of the system"):
            _files.replaceable(name)
        with pytest.raises(ValueError, match="place of the system"):
            _files.check_folder(name, anything)


def test_a_missing_folder_is_named_and_nul_is_no_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*no' does not exist"), whole_file(tmp_path / "no" / "a.csv"):
        pass
    with pytest.raises(ValueError, match="no usable path"):
        _files.replaceable("a\0b")


def test_a_full_disk_is_told_with_the_name_that_the_user_knows(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(OSError, match="No space") as caught, whole_file(path) as part:
        raise OSError(errno.ENOSPC, "No space left on device", str(part))
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------- places


def test_relation_sees_through_links_and_case(tmp_path):
    from st_concepts._files import relation

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


# ------------------------------------------------------------------------------------------- leftovers


def _child(code: str, *args: object) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(_files.__file__).parents[2])}
    argv = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


KILLED = """
import os, signal, sys
from pathlib import Path
from st_concepts._files import whole_file, whole_folder
with whole_file(Path(sys.argv[1]) / "a.csv") as a, whole_folder(Path(sys.argv[1]) / "b.zarr", lambda _: True) as b:
    a.write_text("half")
    (b / "inner").mkdir(parents=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_killed_processes_are_removed_by_the_next_write(tmp_path):
    with _child(KILLED, tmp_path, "kill") as child:
        assert child.wait(SETTLED) == -9
    assert len(hidden(tmp_path)) == 2
    (tmp_path / ".st_concepts-notes").write_text("of the user")
    with whole_file(tmp_path / "other.csv") as part:
        part.write_text("new")
    assert hidden(tmp_path) == [".st_concepts-notes"]


def test_what_a_living_process_writes_stays(tmp_path):
    with _child(KILLED, tmp_path, "live") as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            assert len(hidden(tmp_path)) == 2
            sweep(tmp_path)
            assert len(hidden(tmp_path)) == 2
        finally:
            child.kill()
            # nobody has asked yet how it ended, but it writes no more
            end = time.monotonic() + SETTLED
            while hidden(tmp_path) and time.monotonic() < end:
                sweep(tmp_path)
            assert hidden(tmp_path) == []


def test_whose_a_leftover_is(tmp_path):
    """A number that another process has today, a boot before this one, another machine."""
    own = beside(tmp_path / "a.csv").name
    machine, boot, pid, start, token = own.removeprefix(temporary.PREFIX).removesuffix(".csv").split("-")

    def made(*parts: str) -> Path:
        path = tmp_path / (temporary.PREFIX + "-".join(parts) + ".csv")
        path.write_text("")
        return path

    living = made(machine, boot, pid, start, token)
    recycled = made(machine, boot, pid, str(int(start) + 1), token)
    elsewhere = made("0" * 12, boot, "999999", "1", token)
    before, twin = made(machine, "0" * 8, pid, start, token), made(machine, "1" * 8, pid, start, token)
    os.utime(before, (1, 1))
    foreign = tmp_path / ".st_concepts-x"
    foreign.symlink_to(tmp_path)
    sweep(tmp_path)
    if sys.platform == "linux":
        assert [p.exists() for p in (recycled, before)] == [False, False]
    assert [p.exists() for p in (living, elsewhere, twin, foreign)] == [True] * 4


def test_long_names_are_no_obstacle(tmp_path):
    path = tmp_path / ("x" * 240 + ".h5ad")
    with whole_file(path) as part:
        part.write_text("new")
    with whole_folder(tmp_path / ("y" * 250), anything) as part:
        store(part, "new")
    assert path.read_text() == "new"


# ------------------------------------------------------------------------------------------- stores

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
    with _child(EXCHANGED, tmp_path, way) as child:
        steps = int(child.stdout.read())
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
    import threading

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
