from __future__ import annotations

import hashlib
import http.server
import threading
import time
from pathlib import Path

import pytest

from st_concepts import datasets
from st_concepts.datasets import _fetch, _registry

NAME = "01_01.tsv"
RIGHT = b"\t17_9\nOlfactory nerve layer\t1\n"
WRONG = b"<html>log in first</html>"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves what the test put into ``server.answer``: bytes, a status, or silence."""

    def do_GET(self):
        self.server.requests.append(self.path)
        answer = self.server.answer
        if answer == "silence":
            self.server.released.wait(10)
            return
        status, body = (200, answer) if isinstance(answer, bytes) else (answer, b"")
        self.send_response(status)
        # a truncated transfer: the length that was promised is not kept
        self.send_header("Content-Length", str(len(RIGHT) + 100 if body == RIGHT[:10] else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def upstream(monkeypatch):
    """A local stand-in for the upstream repository; the registry pins the file it serves."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.answer, server.requests, server.released = RIGHT, [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    file = _registry.FILES[NAME]._replace(sha256=hashlib.sha256(RIGHT).hexdigest())
    monkeypatch.setitem(_registry.FILES, NAME, file)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    monkeypatch.setattr(_registry.RemoteFile, "url", property(lambda self: address + self.path + self.name))
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_root(monkeypatch):
    monkeypatch.delenv(_fetch.ENV, raising=False)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_download_is_cached_and_asked_for_once(tmp_path, upstream):
    cache = tmp_path / "new" / "cache"
    assert _fetch.find_local(NAME, cache) is None
    path = _fetch.fetch(NAME, cache)
    assert path.read_bytes() == RIGHT
    assert _fetch.fetch(NAME, cache) == path == _fetch.find_local(NAME, cache)
    assert upstream.requests == ["/tutorials/olfactory_bulb_st/annotations/01_01.tsv"]
    assert files(cache) == [NAME]


def test_a_damaged_cached_file_is_replaced(tmp_path, upstream):
    (tmp_path / NAME).write_bytes(RIGHT[:-3])
    assert _fetch.find_local(NAME, tmp_path) is None
    assert _fetch.fetch(NAME, tmp_path).read_bytes() == RIGHT
    assert files(tmp_path) == [NAME]


def test_a_wrong_answer_is_refused_and_leaves_nothing(tmp_path, upstream):
    upstream.answer = WRONG
    with pytest.raises(datasets.CorruptFileError, match="not the pinned file") as caught:
        _fetch.fetch(NAME, tmp_path)
    assert _fetch.ENV in str(caught.value)
    assert files(tmp_path) == []


@pytest.mark.parametrize("answer", [404, 503, RIGHT[:10]])
def test_a_failed_transfer_is_told_and_leaves_nothing(tmp_path, upstream, answer):
    upstream.answer = answer
    with pytest.raises(datasets.DataUnavailableError, match="could not be downloaded") as caught:
        _fetch.fetch(NAME, tmp_path)
    message = str(caught.value)
    for hint in ("127.0.0.1", f"mob/{NAME}", _fetch.ENV, "simulated_bulb"):
        assert hint in message
    assert len(upstream.requests) == 1
    assert files(tmp_path) == []


def test_no_network_fails_at_once_and_keeps_a_damaged_file_out(tmp_path, upstream):
    upstream.shutdown()
    upstream.server_close()
    (tmp_path / NAME).write_bytes(WRONG)
    start = time.perf_counter()
    with pytest.raises(datasets.DataUnavailableError, match=r"is damaged and.*ConnectionError"):
        _fetch.fetch(NAME, tmp_path)
    assert time.perf_counter() - start < 5
    assert _fetch.find_local(NAME, tmp_path) is None


def test_a_silent_server_does_not_hold_up_for_long(tmp_path, upstream, monkeypatch):
    assert max(_fetch.TIMEOUT) <= 30
    monkeypatch.setattr(_fetch, "TIMEOUT", (0.5, 0.5))
    upstream.answer = "silence"
    start = time.perf_counter()
    with pytest.raises(datasets.DataUnavailableError, match="ReadTimeout"):
        _fetch.fetch(NAME, tmp_path)
    assert time.perf_counter() - start < 5
    assert files(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path, upstream):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(datasets.DataUnavailableError, match=r"cannot be written.*`cache_dir`"):
        _fetch.fetch(NAME, blocked / "cache")
    assert upstream.requests == []


@pytest.mark.parametrize("folder", ["mob", "."])
def test_the_offline_root_comes_first_and_needs_no_network(tmp_path, upstream, monkeypatch, folder):
    root = tmp_path / "root"
    (root / folder).mkdir(parents=True)
    (root / folder / NAME).write_bytes(RIGHT)
    monkeypatch.setenv(_fetch.ENV, str(root))
    assert _fetch.fetch(NAME, tmp_path / "cache") == root / folder / NAME
    assert _fetch.find_local(NAME, tmp_path / "cache") == root / folder / NAME
    assert upstream.requests == []


def test_the_offline_root_is_verified_and_never_written(tmp_path, upstream, monkeypatch):
    (tmp_path / NAME).write_bytes(WRONG)
    monkeypatch.setenv(_fetch.ENV, str(tmp_path))
    with pytest.raises(datasets.CorruptFileError, match="is not the pinned file: sha256") as caught:
        _fetch.fetch(NAME, tmp_path / "cache")
    assert hashlib.sha256(WRONG).hexdigest() in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == WRONG
    assert upstream.requests == []


def test_a_file_that_the_root_lacks_is_downloaded_and_a_root_that_is_no_folder_is_an_error(
    tmp_path, upstream, monkeypatch
):
    (tmp_path / "root").mkdir()
    monkeypatch.setenv(_fetch.ENV, str(tmp_path / "root"))
    assert _fetch.fetch(NAME, tmp_path / "cache").parent == tmp_path / "cache"
    monkeypatch.setenv(_fetch.ENV, str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match=f"{_fetch.ENV}=.*nowhere.* is not a folder"):
        _fetch.fetch(NAME, tmp_path / "cache")
    assert datasets.bulb_at_hand(1, cache_dir=tmp_path) is False


@pytest.mark.parametrize("replicate", [3, "11", None, True, 1.5])
def test_unknown_replicates_are_refused_before_anything_is_fetched(tmp_path, upstream, replicate):
    with pytest.raises(ValueError, match=r"choose one of \[1, 2, 11\]"):
        datasets.mouse_olfactory_bulb(replicate, cache_dir=tmp_path)
    assert upstream.requests == []
    assert files(tmp_path) == []


def test_loading_without_files_and_network_is_one_clear_error(tmp_path, upstream):
    upstream.shutdown()
    upstream.server_close()
    with pytest.raises(datasets.DataUnavailableError, match=r"MOB\.RData is not in"):
        datasets.mouse_olfactory_bulb(1, cache_dir=tmp_path)
    assert files(tmp_path) == []


def test_catalogue_tells_what_is_at_hand_without_fetching(tmp_path, upstream):
    table = datasets.available(cache_dir=tmp_path)
    assert table["name"].tolist() == ["MOB_rep1", "MOB_rep2", "MOB_rep11", "simulated"]
    assert table["at_hand"].tolist() == [False, False, False, True]
    assert upstream.requests == []
    assert not table.isna().any(axis=None)
    assert datasets.bulb_at_hand(cache_dir=tmp_path) is False


def test_the_registry_pins_commits_and_contents():
    for name, file in _registry.FILES.items():
        assert name == file.name
        assert len(file.commit) == 40
        assert len(file.sha256) == 64
        assert file.url.startswith("https://raw.githubusercontent.com/")
        assert file.url.endswith(f"/{file.commit}/{file.path}{name}")


def test_the_provenance_page_carries_the_registry():
    page = Path(__file__).resolve().parents[2] / "data" / "README.md"
    text = page.read_text(encoding="utf-8")
    for file in _registry.FILES.values():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {file.name} |")]
        assert file.sha256 in row
        assert file.licence in row
        assert file.commit in text
        assert file.repository in text
