from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from st_concepts._distributed import all_reduce, rank, shard, shard_rows, size

WORKER = """
import sys
import numpy as np
import torch.distributed as dist
from st_concepts._distributed import all_reduce, rank, shard, shard_rows, size

assert (rank(), size()) == (0, 1)
who, out = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=who, world_size=2)
assert (rank(), size()) == (who, 2)
a, b = all_reduce(np.full((2, 3), 0.1 + who, dtype=np.float32), np.arange(4) * (who + 1))
rows = shard_rows(10, step=4)
np.savez(f"{out}/{who}.npz", a=a, b=b, shard=list(shard(iter(range(7)))), rows=np.arange(10)[rows])
dist.destroy_process_group()
"""


def start(code: str, tmp_path: Path, n: int = 2) -> None:
    """Run ``code`` in ``n`` processes with their number and ``tmp_path`` as arguments; all must end well."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i), str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True
        )
        for i in range(n)
    ]
    try:
        errors = [p.communicate(timeout=120)[1] for p in running]
    finally:
        for p in running:
            p.kill()
    assert [p.returncode for p in running] == [0] * n, "\n".join(errors)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("two")
    start(WORKER, folder)
    return [dict(np.load(folder / f"{i}.npz")) for i in range(2)]


def test_sums_over_two_processes(found):
    for one in found:
        assert one["a"].dtype == np.float64
        assert np.array_equal(one["a"], np.full((2, 3), np.float64(np.float32(0.1)) + np.float64(np.float32(1.1))))
        assert np.array_equal(one["b"], np.arange(4) * 3)


def test_shares_are_disjoint_and_complete(found):
    assert [one["shard"].tolist() for one in found] == [[0, 2, 4, 6], [1, 3, 5]]
    assert np.concatenate([one["rows"] for one in found]).tolist() == list(range(10))
    assert all(len(one["rows"]) >= 4 for one in found)


def test_alone_everything_stays_as_it_is():
    x = np.arange(3, dtype=np.float32)
    assert (rank(), size()) == (0, 1)
    assert list(shard("abc")) == ["a", "b", "c"]
    assert shard_rows(7, 3) == slice(0, 7)
    assert all_reduce(x)[0] is x
    assert all_reduce() == []


def test_torch_is_not_imported_to_find_out():
    code = (
        "import sys; from st_concepts import _distributed as p; assert p.size() == 1; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
