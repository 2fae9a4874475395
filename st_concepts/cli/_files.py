"""Results into files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from st_concepts._files import make_folder, whole_file
from st_concepts._spreadsheet import write_safe_csv
from st_concepts.cli._errors import UsageError, one_line

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def write_result(adata: AnnData, path: Path, *, source: Path | None = None, table: str | None = None) -> None:
    """Write ``.h5ad`` or ``.zarr``, whole or not at all; with ``source`` into a copy of that SpatialData store."""
    from st_concepts import io

    try:
        io.write(adata, path, source=source, table=table)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"The result cannot be written to {path}: {one_line(error)}") from error


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table; the file is complete or not there, and no name in it can become a formula of a spreadsheet."""
    make_folder(path.parent)
    with whole_file(path) as temporary:
        write_safe_csv(table, temporary)
