"""Files of the registry: from a folder at hand, from the cache, or downloaded; always verified by sha256."""

from __future__ import annotations

import hashlib
import os
from os import PathLike
from pathlib import Path

from st_concepts._files import make_folder, whole_file

from ._registry import FILES, RemoteFile

ENV = "ST_CONCEPTS_DATA"
# seconds to connect and seconds without a byte: a machine without network must not wait for minutes
TIMEOUT = (5.0, 30.0)


class DataUnavailableError(OSError):
    """A data file is not on this machine and could not be downloaded."""


class CorruptFileError(ValueError):
    """A data file is not the one that the registry pins."""


def default_cache() -> Path:
    """Folder of downloaded files, ``pooch.os_cache("st_concepts")``."""
    import pooch

    return Path(pooch.os_cache("st_concepts"))


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def offline_root() -> Path | None:
    """The folder that ``ST_CONCEPTS_DATA`` names, or ``None`` when it is not set."""
    root = os.environ.get(ENV, "").strip()
    return Path(root).expanduser() if root else None


def find_local(name: str, cache_dir: str | PathLike[str] | None = None) -> Path | None:
    """A verified copy of file ``name`` on this machine, or ``None``. Never touches the network, never raises."""
    file = FILES[name]
    for path in _candidates(name, cache_dir):
        try:
            if sha256(path) == file.sha256:
                return path
        except OSError:
            continue
    return None


def fetch(name: str, cache_dir: str | PathLike[str] | None = None) -> Path:
    """Path of a verified copy of file ``name``: ``ST_CONCEPTS_DATA``, then the cache, then a download to the cache."""
    file = FILES[name]
    root = offline_root()
    if root is not None:
        if not root.is_dir():
            raise NotADirectoryError(
                f"{ENV}={str(root)!r} is not a folder (current folder: {str(Path.cwd())!r}). "
                "Point it at the folder that holds mob/, or unset it to download."
            )
        for path in _below(root, name):
            if path.is_file():
                # a file that the user put there is never replaced
                if (found := sha256(path)) != file.sha256:
                    raise CorruptFileError(
                        f"{path} is not the pinned file: sha256 {found}, expected {file.sha256}. "
                        f"Replace it by {file.url}, or unset {ENV}."
                    )
                return path
    return _from_cache(file, Path(cache_dir).expanduser() if cache_dir is not None else default_cache())


def _below(root: Path, name: str) -> tuple[Path, Path]:
    return root / "mob" / name, root / name


def _candidates(name: str, cache_dir: str | PathLike[str] | None) -> list[Path]:
    root = offline_root()
    cache = Path(cache_dir).expanduser() if cache_dir is not None else default_cache()
    return [*(_below(root, name) if root is not None else ()), cache / name]


def _download(file: RemoteFile, path: Path) -> None:
    """Stream a file of the registry to ``path``, which appears once it is complete and verified."""
    with whole_file(path) as temporary:
        _stream(file.url, temporary)
        if (found := sha256(temporary)) != file.sha256:
            raise CorruptFileError(f"sha256 {found}, expected {file.sha256}")


def _stream(url: str, path: Path) -> None:
    import requests

    with requests.get(url, stream=True, timeout=TIMEOUT) as response, path.open("wb") as handle:
        response.raise_for_status()
        for chunk in response.iter_content(1 << 16):
            handle.write(chunk)


def _from_cache(file: RemoteFile, cache: Path) -> Path:
    import requests

    path = cache / file.name
    damaged = path.is_file() and sha256(path) != file.sha256
    if path.is_file() and not damaged:
        return path
    about = f"The copy in the cache, {path}, is damaged and" if damaged else f"{file.name} is not in {cache} and"
    try:
        make_folder(cache)
        _download(file, path)
        return path
    except requests.exceptions.RequestException as error:
        reason = str(error) if isinstance(error, requests.exceptions.HTTPError) else type(error).__name__
        raise DataUnavailableError(
            f"{about} could not be downloaded from {file.url} ({reason}). Connect to the network, or "
            f"download the file elsewhere, put it in a folder (as mob/{file.name} or {file.name}) and set {ENV} to "
            "that folder. The simulated section needs no files: st_concepts.datasets.simulated_bulb()."
        ) from None
    except CorruptFileError as error:
        raise CorruptFileError(
            f"{about} what came from {file.url} is not the pinned file ({error}). A proxy or a broken connection may "
            f"have altered it: try again, or fetch it another way and set {ENV}."
        ) from None
    except (OSError, ValueError) as error:
        raise DataUnavailableError(
            f"{about} the cache {cache} cannot be written ({error}). Pass a folder of yours as `cache_dir`, or "
            f"set {ENV}."
        ) from None
