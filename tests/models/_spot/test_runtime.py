from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

import st_concepts as stc
from st_concepts.models._spot import runtime as _runtime
from st_concepts.models._spot.runtime import Plan

pytest.importorskip("lightning_fabric")

SCRIPT = """
import sys
import torch
import st_concepts as stc

if __name__ == "__main__":
    out, strategy, streamed = sys.argv[1], sys.argv[2], sys.argv[3] == "streamed"
    if streamed:
        from st_concepts.models._spot import data
        data.KEPT, data.BLOCK, data.SAMPLE = 0, 16, 50
    adata = stc.datasets.simulated_bulb(n_obs=1600, n_vars=120, seed=0)
    model = stc.SpotVAE(adata, n_latent=4, n_hidden=16)
    model.fit(max_epochs=2, batch_size=31, device="cpu", devices=2, strategy=strategy, progress=False)
    from st_concepts._distributed import rank, size
    if rank() == 0:
        model.save(out)
    print("done", rank(), size(), model.fingerprint)
"""


def _run(tmp_path: Path, strategy: str, streamed: str) -> tuple[stc.SpotVAE, str]:
    script, out = tmp_path / "script.py", tmp_path / "model.stc"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTEST"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    found = subprocess.run(
        [sys.executable, str(script), str(out), strategy, streamed],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return stc.SpotVAE.load(out), found.stdout


@pytest.mark.parametrize(("strategy", "streamed"), [("ddp", "streamed"), ("ddp_spawn", "kept")])
def test_two_processes_fit_what_one_does(strategy, streamed, tmp_path, monkeypatch) -> None:
    if streamed == "streamed":
        from st_concepts.models._spot import data as _spot_data

        for name, value in (("KEPT", 0), ("BLOCK", 16), ("SAMPLE", 50)):
            monkeypatch.setattr(_spot_data, name, value)
    together, printed = _run(tmp_path, strategy, streamed)
    adata = stc.datasets.simulated_bulb(n_obs=1600, n_vars=120, seed=0)
    alone = stc.SpotVAE(adata, n_latent=4, n_hidden=16)
    alone.fit(max_epochs=2, batch_size=31, device="cpu", progress=False)
    if strategy == "ddp":  # both processes go on, with one and the same model
        lines = [line.split() for line in printed.splitlines() if line.startswith("done")]
        assert {line[1] for line in lines} == {"0", "1"}
        assert len({line[3] for line in lines}) == 1
    assert not alone.history.empty
    np.testing.assert_allclose(together.history.to_numpy(), alone.history.to_numpy(), rtol=1e-5)
    # Adam divides by gradients that may be next to nothing: single weights differ more than what they make
    np.testing.assert_allclose(together.embed(adata), alone.embed(adata), atol=2e-3)
    for name, value in alone.module.state_dict().items():
        torch.testing.assert_close(together.module.state_dict()[name], value, rtol=1e-3, atol=1e-3)


def test_bfloat16_runs_and_stays_close() -> None:
    adata = stc.datasets.simulated_bulb(n_obs=300, n_vars=120, seed=0)
    options = {"max_epochs": 2, "device": "cpu", "progress": False}
    full = stc.SpotVAE(adata, n_latent=4).fit(**options)
    half = stc.SpotVAE(adata, n_latent=4).fit(precision="bf16-mixed", **options)
    assert half.module.encoder_weight.dtype == torch.float32
    assert half.history.validation_nll.iloc[-1] == pytest.approx(full.history.validation_nll.iloc[-1], rel=0.01)


def test_the_default_needs_no_fabric() -> None:
    assert Plan(torch.device("cpu")).alone
    assert not Plan(torch.device("cpu"), devices=2).alone


def test_what_fabric_refuses_is_said() -> None:
    model = stc.SpotVAE(stc.datasets.simulated_bulb(n_obs=60, n_vars=110, seed=0), n_latent=3)
    with pytest.raises(ValueError, match=r"refuses devices=1.*strategy='nonsense'"):
        model.fit(device="cpu", strategy="nonsense")
    with pytest.raises(ValueError, match="precision='7-bit'"):
        model.fit(device="cpu", precision="7-bit")


def test_several_processes_are_not_for_notebooks(monkeypatch) -> None:
    monkeypatch.setattr(_runtime, "in_notebook", lambda: True)
    model = stc.SpotVAE(stc.datasets.simulated_bulb(n_obs=60, n_vars=110, seed=0), n_latent=3)
    with pytest.raises(ValueError, match="several processes are for scripts, not notebooks"):
        model.fit(device="cpu", devices=2)


def test_counts_on_the_disk_are_not_sent(tmp_path) -> None:
    stc.datasets.simulated_bulb(n_obs=60, n_vars=110, seed=0).write_h5ad(tmp_path / "a.h5ad")
    model = stc.SpotVAE(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"), n_latent=3)
    with pytest.raises(ValueError, match=r"on the disk\. Use strategy='ddp'"):
        model.fit(device="cpu", devices=2, strategy="ddp_spawn")


def test_one_of_many_processes_is_told(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    model = stc.SpotVAE(stc.datasets.simulated_bulb(n_obs=60, n_vars=110, seed=0), n_latent=3)
    with pytest.warns(UserWarning, match=r"one of 4 processes.*Pass devices"):
        model.fit(device="cpu", max_epochs=0, progress=False)
