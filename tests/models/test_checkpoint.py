from __future__ import annotations

import json
import struct

import pandas as pd
import pytest
import torch

from st_concepts.models import _checkpoint

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
HEADER = {"config": {"x": 0.1}, "names": ["µ", "b"]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.stc"
    _checkpoint.write(path, "SpotVAE", STATE, HEADER)
    return path


def _edit_meta(path, **changes) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"].update(changes)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def test_round_trip_leaves_one_file(path) -> None:
    state, header = _checkpoint.read(path, "SpotVAE")
    assert header == HEADER
    assert all(torch.equal(state[k], STATE[k]) for k in STATE)
    assert [p.name for p in path.parent.iterdir()] == ["model.stc"]


@pytest.mark.parametrize("keep", [0, 5, 60, -3])
def test_truncated(path, keep) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated"):
        _checkpoint.read(path, "SpotVAE")


def test_not_a_model(path) -> None:
    path.write_bytes(b"\x89HDF and so on" * 20)
    with pytest.raises(ValueError, match="not a model file"):
        _checkpoint.read(path, "SpotVAE")
    _edit = path.with_name("other.safetensors")
    from safetensors.torch import save_file

    save_file(STATE, _edit)
    with pytest.raises(ValueError, match=r"not one that model.save\(\) wrote"):
        _checkpoint.read(_edit, "SpotVAE")


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="No model file"):
        _checkpoint.read(tmp_path / "no.stc", "SpotVAE")
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        _checkpoint.write(tmp_path / "no" / "x.stc", "SpotVAE", STATE, HEADER)


def test_other_kind(path) -> None:
    with pytest.raises(ValueError, match=r"holds a SpotVAE, not a GeneVAE: call SpotVAE.load"):
        _checkpoint.read(path, "GeneVAE")


def test_newer_version(path) -> None:
    _edit_meta(path, version="99")
    with pytest.raises(ValueError, match=r"format version 99.*Upgrade"):
        _checkpoint.read(path, "SpotVAE")


def test_weights_laid_out_as_they_were_before(path, tmp_path) -> None:
    _edit_meta(path, version="1")
    with pytest.raises(ValueError, match=r"format version 1, .* Fit the model again"):
        _checkpoint.read(path, "SpotVAE")
    other = tmp_path / "images.stc"
    _checkpoint.write(other, "ImageVAE", STATE, HEADER)
    _edit_meta(other, version="1")
    assert _checkpoint.read(other, "ImageVAE")[1] == HEADER


def test_changed_header(path) -> None:
    _edit_meta(path, header=json.dumps({**HEADER, "config": {"x": 0.2}}))
    with pytest.raises(ValueError, match=r"header .* was changed"):
        _checkpoint.read(path, "SpotVAE")


def test_a_failed_write_keeps_the_old_file(path, monkeypatch) -> None:
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _checkpoint.write(path, "SpotVAE", {"a": torch.zeros(9)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["model.stc"]


def test_fingerprint_sees_weights_shapes_and_genes() -> None:
    genes = pd.Index(["a", "b"])
    base = _checkpoint.fingerprint(STATE, genes)
    assert len(base) == 16
    assert base == _checkpoint.fingerprint(dict(reversed(STATE.items())), genes)
    others = [
        _checkpoint.fingerprint({**STATE, "b": torch.ones(1) + 1e-6}, genes),
        _checkpoint.fingerprint({**STATE, "a": STATE["a"].reshape(3, 2)}, genes),
        _checkpoint.fingerprint(STATE, genes[::-1]),
        _checkpoint.fingerprint(STATE, pd.Index(["ab", ""])),
    ]
    assert len({base, *others}) == 5
