"""Checking where results go before anything is computed; writing whole files or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from st_concepts._spreadsheet import write_safe_csv
from st_concepts.cli._errors import UsageError, one_line
from st_concepts.io._folder import writable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def check_targets(source: Path, targets: dict[str, Path | None]) -> None:
    """Refuse targets that are the input, each other, folders, or that cannot be written.

    Parameters
    ----------
    source
        The input file or folder.
    targets
        Option name to path; `None` where the option was not given.
    """
    seen: dict[Path, str] = {}
    for option, path in targets.items():
        if path is None:
            continue
        if _same(source, path):
            raise UsageError(f"{option} {path} is the input file, which is never changed; name another file.")
        if source.is_dir() and source.resolve() in path.resolve().parents:
            raise UsageError(f"{option} {path} lies in the input folder, which is never changed; name another place.")
        if (other := seen.get(path.resolve())) is not None:
            raise UsageError(f"{option} and {other} name the same file, {path}.")
        seen[path.resolve()] = option
        check_target(option, path)


def check_target(option: str, path: Path, *, folder: bool = False) -> None:
    """Refuse a path that cannot be written; folders that do not exist yet are made later."""
    if not folder and path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file in it.")
    if folder and path.exists() and not path.is_dir():
        raise UsageError(f"{option} {path} is a file; name a folder.")
    nearest = path if folder else path.parent
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"{option} {path}: {nearest} is not a folder.")
    if not writable(nearest):
        raise UsageError(f"{option} {path}: folder {nearest.resolve()} cannot be written.")


def check_store(source: Path, option: str, path: Path) -> None:
    """Refuse a zarr store that is the input, or a folder that is no zarr store."""
    from st_concepts.io._platforms import zarr_kind

    if _same(source, path):
        raise UsageError(f"{option} {path} is the input, which is never changed; name another store.")
    if path.exists() and (not path.is_dir() or zarr_kind(path) is None):
        raise UsageError(f"{option} {path} is there and no zarr store, so it is not replaced; name another.")
    check_target(option, path, folder=True)


def _same(a: Path, b: Path) -> bool:
    # samefile sees through symbolic and hard links
    if a.exists() and b.exists():
        return a.samefile(b)
    return a.resolve() == b.resolve()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when all went well."""
    path = path.resolve()  # through a link: the link stays, its target is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_h5ad(adata: AnnData, path: Path) -> None:
    """Write compressed; the file is complete or not there."""
    write_result(adata, path)


def write_result(adata: AnnData, path: Path, *, source: Path | None = None, table: str | None = None) -> None:
    """Write ``.h5ad`` or ``.zarr``, whole or not at all; with ``source`` into a copy of that SpatialData store."""
    from st_concepts import io

    try:
        io.write(adata, path, source=source, table=table)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"The result cannot be written to {path}: {one_line(error)}") from error


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table; the file is complete or not there, and no name in it can become a formula of a spreadsheet."""
    with whole_file(path) as temporary:
        write_safe_csv(table, temporary)
