"""``st-concepts run``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts import get, io, report
from st_concepts._keys import KEYS
from st_concepts.attribution import get_method
from st_concepts.cli._errors import UsageError, complain, say
from st_concepts.cli._files import check_store, check_target, check_targets, write_csv, write_result
from st_concepts.cli._pipeline import Settings, analyse, drop_results, pictures, summary
from st_concepts.cli._report import check_report
from st_concepts.concepts import get_estimator
from st_concepts.io._platforms import KINDS
from st_concepts.models._validate import check_counts, count_matrix

Null = Literal["moran", "permutation", "none"]


@dataclass(frozen=True)
class Files:
    """The input and what is to be written; `None` for what was not asked for."""

    source: Path
    out: Path
    markers: Path | None = None
    model: Path | None = None
    pictures: Path | None = None
    annotation: Path | None = None
    report: Path | None = None

    def expanded(self) -> Files:
        """With ``~`` replaced by the home folder."""
        return replace(self, **{name: p.expanduser() for name, p in vars(self).items() if p is not None})


@dataclass(frozen=True)
class Form:
    """What the input is, where that cannot be told from it; see `st_concepts.io.read`."""

    kind: str | None = None
    table: str | None = None
    bin_size: int | None = None
    image: Path | None = None
    scale: str = "1"  # of the drawing
    raw: bool = False  # counts from adata.raw


def run_file(files: Files, settings: Settings, *, form: Form, min_spots: int, stability: bool | None = None) -> None:
    """Read, check everything that can be wrong before the work starts, work, write."""
    files = files.expanded()
    if files.out.suffix not in (".h5ad", ".zarr"):
        raise UsageError(f"--out {files.out} must end in .h5ad or .zarr.")
    single: dict[str, Path | None] = {"--markers": files.markers, "--model": files.model, "--report": files.report}
    if files.out.suffix == ".zarr":
        check_store(files.source, "--out", files.out)
        check_targets(files.source, single)
    else:
        check_targets(files.source, single | {"--out": files.out})
    if files.report is not None:
        check_report("--report", files.report)
    if files.pictures is not None:
        check_target("--pictures", files.pictures, folder=True)
    if form.raw and settings.layer is not None:
        raise UsageError(f"--raw and --layer {settings.layer} name two matrices of counts; leave one out.")
    get_method(settings.method)
    get_estimator(settings.estimator)

    kind = form.kind or io.detect_kind(files.source)
    adata = _read(files, form, settings.groupby)
    if old := drop_results(adata):
        complain("note", f"{files.source} holds earlier results, which are replaced: {', '.join(old)}.")
    settings = replace(settings, null=_null(adata, settings.null))
    _check_column(adata, "--groupby", settings.groupby)
    if settings.batch_key is not None:
        _check_column(adata, "--batch-key", settings.batch_key)
    _check_labels(adata, settings.groupby)
    check_counts(adata, settings.layer)
    if min_spots:
        adata = _seen(adata, settings.layer, min_spots)
    say(f"data: {files.source} ({KINDS[kind].what}), {adata.n_obs} spots x {adata.n_vars} genes")

    model = analyse(adata, settings)
    say(summary(adata))
    # SpatialData in, SpatialData out
    whole = files.source if kind == "spatialdata" and files.out.suffix == ".zarr" else None
    write_result(adata, files.out, source=whole, table=form.table)
    written = [files.out]
    if files.markers is not None:
        write_csv(get.markers(adata), files.markers)
        written.append(files.markers)
    if files.model is not None:
        files.model.parent.mkdir(parents=True, exist_ok=True)
        model.save(files.model)
        written.append(files.model)
    if files.pictures is not None:
        written += pictures(adata, files.pictures, groupby=settings.groupby)
    if files.report is not None:
        report.write(adata, files.report, model=model, stability=stability, seed=settings.seed)
        written.append(files.report)
    say("written: " + ", ".join(map(str, written)))


def _read(files: Files, form: Form, groupby: str) -> AnnData:
    more = {} if form.image is None else {"image": form.image.expanduser()}
    if more and (form.kind or io.detect_kind(files.source)) != "st":
        raise UsageError(f"--image {form.image} is for ST tables; {files.source} brings its own image or has none.")
    adata = io.read(files.source, kind=form.kind, table=form.table, bin_size=form.bin_size, **more)
    if form.raw:
        adata = _from_raw(adata, files.source)
    if files.annotation is not None:
        io.read_annotation(adata, files.annotation, key=groupby, scale=_scale(form.scale))
        say(f"labels: {int(adata.obs[groupby].notna().sum())} of {adata.n_obs} spots, from {files.annotation}")
    return adata


def _from_raw(adata: AnnData, source: Path) -> AnnData:
    """What ``.raw`` holds, with the annotation and positions of the spots."""
    if adata.raw is None:
        raise UsageError(f"--raw: {source} has no .raw; leave --raw out.")
    say(f"counts: from .raw, {adata.raw.n_vars} genes")
    return (adata.to_memory() if adata.isbacked else adata).raw.to_adata()


def _scale(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the name of an image; read_annotation says which there are


def seen_in(adata: AnnData, layer: str | None, min_spots: int) -> np.ndarray:
    """Boolean ``(n_vars,)``: genes with counts in at least ``min_spots`` spots."""
    X = count_matrix(adata, layer)
    return np.asarray((X != 0).sum(0)).ravel() >= min_spots


def _seen(adata: AnnData, layer: str | None, min_spots: int) -> AnnData:
    keep = seen_in(adata, layer, min_spots)
    if not keep.any():
        raise UsageError(f"No gene is seen in {min_spots} spots or more; lower --min-spots.")
    say(f"genes: {int(keep.sum())} of {adata.n_vars} are seen in at least {min_spots} spots; the others are left out")
    return adata[:, keep].copy()


def _null(adata: AnnData, null: str) -> str:
    spatial = KEYS.SPATIAL in adata.obsm
    if not null:
        if not spatial:
            complain(
                "note",
                "no coordinates in obsm['spatial']: p-values come from shuffled spots (--null permutation) as if "
                "neighbouring spots were independent, and nothing can be drawn on tissue.",
            )
        return "moran" if spatial else "permutation"
    if null not in get_args(Null):
        raise UsageError(f"--null {null} is unknown; use {', '.join(get_args(Null))}.")
    if null == "moran" and not spatial:
        raise UsageError("--null moran needs coordinates in obsm['spatial']; use --null permutation.")
    return null


def _check_column(adata: AnnData, option: str, name: str) -> None:
    if name in adata.obs:
        return
    columns = [str(c) for c in adata.obs.columns]
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    have = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(columns[:20]) or 'none'}."
    raise UsageError(f"{option} {name}: obs has no such column. {have}")


def _check_labels(adata: AnnData, groupby: str) -> None:
    labels = adata.obs[groupby]
    if pd.api.types.is_float_dtype(labels) and (labels.dropna() % 1 != 0).any():
        raise UsageError(f"--groupby {groupby} holds measurements, not labels; name a column of layers or regions.")
    known, n = int(labels.notna().sum()), int(labels.nunique())
    if known == 0:
        raise UsageError(f"--groupby {groupby}: every spot is unlabelled.")
    if n < 2:
        raise UsageError(
            f"--groupby {groupby}: all labelled spots are {labels.dropna().iloc[0]!r}; at least two labels are needed."
        )
    if n > 10 and n > known / 2:
        raise UsageError(f"--groupby {groupby} has {n} labels on {known} spots; it looks like names, not layers.")
