"""One file, safe to load: a safetensors file whose header holds the configuration. No pickle is ever read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from st_concepts._files import replaceable, whole_file
from st_concepts._files.content import check_content
from st_concepts.models._schema import shown

FORMAT = "st_concepts.model"
VERSION = 2
STATE_OF_FIT = "SpotVAE.fit"
_MODELS = ("SpotVAE", "GeneVAE", "ImageVAE")
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
    """Write tensors and header to ``path``, whole or not at all; the same content gives the same bytes."""
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
    """Tensors and header of a file written by `write`."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a model file.")
    if not path.is_file():
        raise FileNotFoundError(f"No model file at {str(path)!r}.")
    check_content(path)
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") == FORMAT:
                _check_meta(str(path), kind, meta)
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a mapping)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except PermissionError:
        raise
    # by damaged headers: unknown types, sizes beyond the memory, broken text
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is not a model file of st_concepts, or it is truncated ({' '.join(str(error).split())}). "
            "Save the model again with model.save(path)."
        ) from error
    if meta.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} is a safetensors file, but not one that model.save() wrote.")
    return state, _parsed(str(path), meta["header"])


class _Refused(Exception):
    """A file that is whole and yet not the one wanted."""


def _check_meta(path: str, kind: str, meta: Mapping[str, str]) -> None:
    """Version, kind and digest, before any tensor is read."""
    version, found = meta.get("version", ""), meta.get("kind", "")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise _Refused(f"{path!r} has no format version that can be read ({shown(version)}). Save the model again.")
    if int(version) > VERSION:
        raise _Refused(
            f"{path!r} has format version {version}; this st_concepts reads up to {VERSION}. Upgrade st_concepts."
        )
    if int(version) < _OLDEST.get(found, 1):
        raise _Refused(
            f"{path!r} has format version {version}, whose weights are laid out differently. "
            "Fit the model again and save it."
        )
    if found != kind:
        if found == STATE_OF_FIT:
            raise _Refused(f"{path!r} is the checkpoint of a fit, not a model: name a file that model.save() wrote.")
        if found not in _MODELS:
            raise _Refused(f"{path!r} holds a {shown(found)}, not a {kind}.")
        raise _Refused(f"{path!r} holds a {found}, not a {kind}: call {found}.load(path).")
    if _digest(meta.get("header", "")) != meta.get("sha256"):
        raise _Refused(f"The header of {path!r} was changed after it was saved. Save the model again.")


def _parsed(path: str, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The header of {path!r} is no JSON that can be read ({error}). Save it again.") from error
    if not isinstance(header, dict):
        raise ValueError(f"The header of {path!r} must be a dictionary, not {shown(header)}. Save it again.")
    return header
