"""Bars and messages: seen where someone looks, silent in files, as quiet as scanpy was told to be."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import scanpy as sc

from st_concepts import _log as _progress
from st_concepts._log import bar, get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[0, 1, 2, 3])
def verbosity(request: pytest.FixtureRequest) -> Iterator[int]:
    before = sc.settings.verbosity
    sc.settings.verbosity = request.param
    yield request.param
    sc.settings.verbosity = before


@contextmanager
def bare_root() -> Iterator[None]:
    """The root logger without the handlers of pytest, as in a script that did not set up logging."""
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = kept


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, verbosity: int) -> None:
    # pytest puts its own stderr back between set-up and call, so this cannot be a fixture
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(bar(range(3), desc="fit", unit="epoch", progress=True)) == [0, 1, 2]
    assert ("fit" in terminal.getvalue()) == (verbosity > 0)


def test_no_bar_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    made = bar(5, desc="fit", unit="epoch", progress=False)
    made.update(2)
    made.set_postfix(loss="1")
    made.close()
    assert terminal.getvalue() == ""
    assert made.total == 5


def test_no_bar_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    assert sum(bar(range(4), desc="fit", unit="epoch", progress=True)) == 6
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    assert sum(bar(range(4), desc="fit", unit="epoch", progress=True)) == 6
    assert file.getvalue() == ""


def test_a_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(_progress.importlib.util, "find_spec", lambda name: None)  # ipywidgets is not installed
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    list(bar(range(2), desc="fit", unit="epoch", progress=True))
    assert "fit" in file.getvalue()
    shell.config.clear()  # an IPython terminal
    assert not _progress.in_notebook()


def test_scanpy_is_not_imported_for_it() -> None:
    code = (
        "import sys; from st_concepts._log import bar, get_logger, verbosity\n"
        "list(bar(range(2), desc='a', unit='b', progress=True)); get_logger('io').warning('seen'); "
        "get_logger('io').info('not seen'); print('scanpy' in sys.modules, verbosity())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
    assert done.stderr == "seen\n"


def test_messages_follow_scanpy(verbosity: int, capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("test_messages")
    with bare_root():
        logger.error("an error")
        logger.warning("a warning")
        logger.info("a remark")
    said = capsys.readouterr().err.splitlines()
    assert said == ["an error", "a warning", "a remark"][: 1 + min(verbosity, 2)]


def test_the_users_own_logging_goes_first(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("test_own")
    logger.info("by default not")
    with caplog.at_level(logging.INFO, "st_concepts.test_own"):
        logger.info("asked for")
    with caplog.at_level(logging.DEBUG, "st_concepts"):
        logger.debug("that too")
    assert caplog.messages == ["asked for", "that too"]
    assert capsys.readouterr().err == ""
    assert get_logger("test_own") is logger
    assert len(logger.filters) == 1
