"""What a killed process leaves behind goes with the next write; what a living one writes stays."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from st_concepts._files import beside, sweep, temporary, whole_file
from tests._files.stores import SETTLED, child, hidden

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
    with child(KILLED, tmp_path, "kill") as running:
        assert running.wait(SETTLED) == -9
    assert len(hidden(tmp_path)) == 2
    (tmp_path / ".st_concepts-notes").write_text("of the user")
    with whole_file(tmp_path / "other.csv") as part:
        part.write_text("new")
    assert hidden(tmp_path) == [".st_concepts-notes"]


def test_what_a_living_process_writes_stays(tmp_path):
    with child(KILLED, tmp_path, "live") as running:
        try:
            assert running.stdout.readline() == b"ready\n"
            assert len(hidden(tmp_path)) == 2
            sweep(tmp_path)
            assert len(hidden(tmp_path)) == 2
        finally:
            running.kill()
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
