"""One file, safe to load: a safetensors file whose header holds the configuration. No pickle is ever read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from st_concepts._files import replaceable, whole_file

FORMAT = "st_concepts.model"
VERSION = 2
_OLDEST = {"SpotVAE": 2}  # of files that still load, where it is not 1


def fingerprint(state: Mapping[str, torch.Tensor], var_names: pd.Index) -> str:
    """Sixteen hexadecimal digits of the sha256 of weights (names, shapes, bytes) and gene names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    digest.update("\0".join(map(str, var_names)).encode())
    return digest.hexdigest()[:16]


def write(path: str | os.PathLike[str], kind: str, state: Mapping[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Write tensors and header to ``path``, whole or not at all; the same content gives the same bytes.

    Raises
    ------
    FileNotFoundError
        The folder does not exist.
    ValueError
        ``path`` is no regular file.
    """
    from safetensors.torch import save

    path = replaceable(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    text = json.dumps(header)
    meta = {"format": FORMAT, "version": str(VERSION), "kind": kind, "header": text, "sha256": _digest(text)}
    data = save({k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata=meta)
    head, body = _sorted_header(data)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(head)
        file.write(body)


def _sorted_header(data: bytes) -> tuple[bytes, memoryview]:
    """The header of a safetensors file with its keys in order, and what follows: the library shuffles the metadata."""
    size = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + size])
    text = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text, memoryview(data)[8 + size :]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of a file written by `write`.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a model file, truncated, of another kind, of a newer version, or with a header changed after saving.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No model file at {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is not a model file of st_concepts, or it is truncated ({error}). "
            "Save the model again with model.save(path)."
        ) from error
    if meta.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} is a safetensors file, but not one that model.save() wrote.")
    if int(meta["version"]) > VERSION:
        raise ValueError(
            f"{str(path)!r} has format version {meta['version']}; this st_concepts reads up to {VERSION}. "
            "Upgrade st_concepts."
        )
    if int(meta["version"]) < _OLDEST.get(meta["kind"], 1):
        raise ValueError(
            f"{str(path)!r} has format version {meta['version']}, whose weights are laid out differently. "
            "Fit the model again and save it."
        )
    if meta["kind"] != kind:
        raise ValueError(f"{str(path)!r} holds a {meta['kind']}, not a {kind}: call {meta['kind']}.load(path).")
    if _digest(meta.get("header", "")) != meta.get("sha256"):
        raise ValueError(f"The header of {str(path)!r} was changed after it was saved. Save the model again.")
    return state, json.loads(meta["header"])
