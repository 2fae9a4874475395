from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import st_concepts as stc
from st_concepts.models._spot import data as _spot_data
from st_concepts.models._spot import fit as _fit
from st_concepts.models._spot import state as _fit_state
from st_concepts.models._spot.state import Checkpoints

FIT = {"max_epochs": 6, "patience": 20, "batch_size": 16, "progress": False, "device": "cpu"}


def _model(**options) -> stc.SpotVAE:
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    return stc.SpotVAE(adata, **({"n_latent": 4, "n_hidden": 32} | options))


def _same(a: stc.SpotVAE, b: stc.SpotVAE) -> bool:
    states = a.module.state_dict(), b.module.state_dict()
    return all(torch.equal(v, states[1][k]) for k, v in states[0].items()) and a.history.equals(b.history)


def test_checkpoints_change_nothing_and_a_finished_fit_is_read_back(tmp_path, monkeypatch) -> None:
    plain = _model().fit(**FIT)
    kept = _model().fit(checkpoint=tmp_path / "fit", **FIT)
    assert _same(plain, kept)
    assert sorted(p.name for p in (tmp_path / "fit").iterdir()) == ["checkpoint.stc", "previous.stc"]

    def forbidden(*_, **__):
        raise AssertionError("a finished fit makes no step")

    monkeypatch.setattr(_fit, "elbo_loss", forbidden)
    assert _same(plain, _model().fit(checkpoint=tmp_path / "fit", **FIT))


@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_in_the_middle_of_an_epoch_is_made_good(streamed, tmp_path, monkeypatch) -> None:
    if streamed:
        monkeypatch.setattr(_spot_data, "KEPT", 0)
        monkeypatch.setattr(_spot_data, "SAMPLE", 50)
        monkeypatch.setattr(_spot_data, "BLOCK", 16)
        monkeypatch.setattr(_spot_data, "_BUFFER_BLOCKS", (3, 3))
    plain = _model().fit(**FIT)
    steps, real = [], _fit.elbo_loss

    def fails(*args, **kwargs):
        steps.append(1)
        if len(steps) in (20, 45, 46):
            raise RuntimeError("power cut")
        return real(*args, **kwargs)

    monkeypatch.setattr(_fit, "elbo_loss", fails)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="power cut"):
            _model().fit(checkpoint=tmp_path, checkpoint_minutes=1e-9, **FIT)
    assert _same(plain, _model().fit(checkpoint=tmp_path, checkpoint_minutes=1e-9, **FIT))


def test_more_epochs_later(tmp_path) -> None:
    plain = _model().fit(**FIT)
    _model().fit(checkpoint=tmp_path, **FIT | {"max_epochs": 2})
    assert _same(plain, _model().fit(checkpoint=tmp_path, **FIT))


LONG = FIT | {"max_epochs": 40, "patience": 99}


def _fit_with_checkpoints(folder: str, out: str, minutes: float, n_threads: int) -> None:
    torch.set_num_threads(n_threads)
    model = _model().fit(checkpoint=folder, checkpoint_minutes=minutes, **LONG)
    torch.save(model.module.state_dict(), out)


def test_twelve_kills(tmp_path) -> None:
    """SIGKILL at random moments: in the start, in a step, in a write, between two renames."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["st_concepts.models._spot.vae", "st_concepts.datasets", __name__])
    rng, out, folder = np.random.default_rng(0), tmp_path / "weights.pt", tmp_path / "fit"
    last, in_time = None, 0
    for kill in [True] * 12 + [False]:
        arguments = (str(folder), str(out), 1e-9 if kill else 0.0, torch.get_num_threads())
        child = context.Process(target=_fit_with_checkpoints, args=arguments)
        child.start()
        if kill:
            # mostly once there is progress, or nothing would ever be continued; sometimes before
            limit = time.monotonic() + (60.0 if rng.random() < 0.8 else rng.uniform(0.0, 0.5))
            while _stamp(folder) == last and time.monotonic() < limit:
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.03))
            in_time += child.is_alive()
            child.kill()
            last = _stamp(folder)
        child.join()
    assert in_time == 12
    assert child.exitcode == 0
    plain, got = _model().fit(**LONG), torch.load(out, weights_only=True)
    assert all(torch.equal(v, got[k]) for k, v in plain.module.state_dict().items())


def _stamp(folder: Path) -> int | None:
    try:
        return (folder / "checkpoint.stc").stat().st_mtime_ns
    except OSError:
        return None


def test_other_options_or_data_are_refused(tmp_path) -> None:
    _model().fit(checkpoint=tmp_path, **FIT)
    with pytest.raises(ValueError, match=r"another fit \(batch_size was 16, is 8\).*another folder"):
        _model().fit(checkpoint=tmp_path, **FIT | {"batch_size": 8})
    with pytest.raises(ValueError, match="n_latent was 4, is 5"):
        _model(n_latent=5).fit(checkpoint=tmp_path, **FIT)
    adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=1)
    with pytest.raises(ValueError, match="data was"):
        stc.SpotVAE(adata, n_latent=4, n_hidden=32).fit(checkpoint=tmp_path, **FIT)


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(harm, tmp_path) -> None:
    plain = _model().fit(**FIT)
    _model().fit(checkpoint=tmp_path, **FIT)
    path = tmp_path / "checkpoint.stc"
    whole = path.read_bytes()
    at = whole.index(b'"sha256"') + 12
    path.write_bytes({"cut": whole[:-50], "flip": whole[:at] + b"zzz" + whole[at + 3 :], "empty": b""}[harm])
    with pytest.raises(ValueError, match=r"checkpoint\.stc.* is damaged .*Delete it to go on from .*previous\.stc"):
        _model().fit(checkpoint=tmp_path, **FIT)
    path.unlink()
    assert _same(plain, _model().fit(checkpoint=tmp_path, **FIT))


def test_a_full_disk_is_an_error_and_the_checkpoint_before_it_survives(tmp_path) -> None:
    plain = _model().fit(**FIT)
    _model().fit(checkpoint=tmp_path, **FIT | {"max_epochs": 2})
    before = (tmp_path / "checkpoint.stc").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Cannot write the checkpoint of epoch 3 .*is intact; make room"):
            _model().fit(checkpoint=tmp_path, **FIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "checkpoint.stc").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.stc", "previous.stc"]
    assert _same(plain, _model().fit(checkpoint=tmp_path, **FIT))


def test_a_kill_between_two_renames_loses_nothing(tmp_path, monkeypatch) -> None:
    plain = _model().fit(**FIT)
    real = os.replace

    class Killed(BaseException):
        pass

    for left in (1, 2):  # renames that a write has made: next, and current to previous
        folder = tmp_path / str(left)
        _model().fit(checkpoint=folder, **FIT | {"max_epochs": 2})
        calls = []

        def stops(source, target, *, calls=calls, left=left):
            if len(calls) == left:
                raise Killed
            calls.append(1)
            real(source, target)

        monkeypatch.setattr(_fit_state.os, "replace", stops)
        with pytest.raises(Killed):
            _model().fit(checkpoint=folder, **FIT)
        monkeypatch.undo()
        assert (folder / "next.stc").exists()
        assert _same(plain, _model().fit(checkpoint=folder, **FIT))


def test_a_file_in_place_of_the_folder(tmp_path) -> None:
    (tmp_path / "fit").write_text("")
    with pytest.raises(NotADirectoryError, match="name a folder of its own"):
        _model().fit(checkpoint=tmp_path / "fit", **FIT)


def test_leftovers_of_a_killed_write_are_cleared(tmp_path) -> None:
    _model().fit(checkpoint=tmp_path, **FIT)
    (tmp_path / ".next.stc.abc").write_bytes(b"half")
    _model().fit(checkpoint=tmp_path, **FIT)
    assert not list(tmp_path.glob(".*"))


def test_no_checkpoint_yet(tmp_path) -> None:
    assert not Checkpoints(tmp_path / "new", {}, minutes=0.0).exist()
