"""A file is written whole or not at all, and only a regular file is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from st_concepts import _files
from st_concepts._files import whole_file, whole_folder
from tests._files.stores import anything, hidden, store


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


def test_long_names_are_no_obstacle(tmp_path):
    path = tmp_path / ("x" * 240 + ".h5ad")
    with whole_file(path) as part:
        part.write_text("new")
    with whole_folder(tmp_path / ("y" * 250), anything) as part:
        store(part, "new")
    assert path.read_text() == "new"
