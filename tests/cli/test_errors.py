from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from st_concepts.cli import _demo, main
from st_concepts.cli._errors import UsageError, foreseen


@pytest.fixture
def faulty(monkeypatch, capsys, tmp_path):
    """Exit code and the one line of a command that raises what it is given."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def call(function) -> tuple[int, str]:
        monkeypatch.setattr(_demo, "run_demo", lambda *_, **__: function())
        with pytest.raises(SystemExit) as stop:
            main(["demo"])
        err = capsys.readouterr().err.lstrip("\n")  # typer ends the line that Ctrl-C was typed on
        assert err.count("\n") == 1, err
        assert err.startswith("st-concepts: error: ")
        return stop.value.code, err

    return call


def _raises(error: BaseException):
    def function() -> None:
        raise error

    return function


def _from_package(source: str):
    """A function of a module of the package, as far as its name tells."""
    space: dict = {"__name__": "st_concepts.made_up"}
    exec(compile(source, "made_up.py", "exec"), space)
    return space["f"]


BUGS = {
    "by zero": "def f(): 1 / 0",
    "missing key": "def f(): {}['f0']",
    "wrong number": "def f(): int('x')",
    "index": "def f(): [][0]",
    "nothing said": "def f(): assert False",
    "in another library": "import numpy as np\ndef f(): np.zeros(3) + np.zeros(4)",
    "raised again": "def f():\n    try:\n        {}['f0']\n    finally:\n        pass",
}


@pytest.mark.parametrize("name", BUGS)
def test_what_nobody_foresaw_is_one_line_and_a_file(name, faulty, tmp_path) -> None:
    code, line = faulty(_from_package(BUGS[name]))
    assert code == 1
    assert "nobody foresaw this" in line
    (kept,) = tmp_path.glob("st-concepts-*.txt")
    assert str(kept) in line
    text = kept.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "torch 2" in text


CHECKS = {
    "value": "def f(): raise ValueError('say what to do')",
    "key": "def f(): raise KeyError('say what to do')",
    "import": "def f(): raise ImportError('say what to do')",
    "number": "def f(): raise FloatingPointError('say what to do')",
    "translated": "def f():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
    "        raise ValueError('say what to do') from e",
    "handed on": "def f():\n    try:\n        raise ValueError('say what to do')\n"
    "    except ValueError:\n        raise",
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_our_checks_say_is_a_line_without_a_file(name, faulty, tmp_path) -> None:
    code, line = faulty(_from_package(CHECKS[name]))
    assert (code, line) == (2, "st-concepts: error: say what to do\n")
    assert not list(tmp_path.iterdir())


def test_the_system_memory_and_the_user(faulty, tmp_path) -> None:
    code, line = faulty(_raises(OSError(errno.ENOSPC, "No space left on device", "a.h5ad")))
    assert (code, line) == (2, "st-concepts: error: a.h5ad: No space left on device.\n")
    code, line = faulty(_raises(MemoryError("Unable to allocate 8 EiB")))
    assert code == 1
    assert "not enough memory (Unable to allocate 8 EiB)" in line
    code, line = faulty(_raises(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")))
    assert code == 1
    assert "not enough memory" in line
    code, line = faulty(_raises(EOFError("end")))
    assert code == 1
    assert "EOFError: end" in line
    assert faulty(_raises(KeyboardInterrupt())) == (130, "st-concepts: error: interrupted; no result was written.\n")
    assert foreseen(UsageError("x"))
    assert not foreseen(ValueError("never raised"))


def test_a_traceback_that_cannot_be_kept(faulty, monkeypatch) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    code, line = faulty(_from_package(BUGS["by zero"]))
    assert code == 1
    assert "ZeroDivisionError: division by zero. Please report it" in line


def test_a_terminal_that_knows_ascii_only_and_one_that_has_gone(tmp_path) -> None:
    script = (
        "from st_concepts.cli._errors import *\nany_text_can_be_said()\n"
        r"say('\xb5m \udcc3'); complain('note', 'St\xe5hl')"
    )
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True)
    assert done.stdout == b"\\xb5m \\udcc3\n"
    assert done.stderr == b"st-concepts: note: St\\xe5hl\n"
    done_file = str(tmp_path / "done")
    work = f"from st_concepts.cli._errors import say\nfor i in range(9): say('x' * 99999)\nopen({done_file!r}, 'w')"
    done = subprocess.run(f'{sys.executable} -c "{work}" | head -c 1', shell=True, capture_output=True, check=True)
    assert done.stderr == b""
    assert Path(done_file).exists()  # the work went on
