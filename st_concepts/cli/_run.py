"""``st-concepts run``."""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from st_concepts import get, io, report
from st_concepts._counts.check import check_counts, count_matrix
from st_concepts._counts.labels import clean_labels, is_boolean, taken_as_missing
from st_concepts._files import expanded, make_folder
from st_concepts._slots import KEYS
from st_concepts.attribution import get_method
from st_concepts.cli._errors import UsageError, complain, say
from st_concepts.cli._files import write_csv, write_result
from st_concepts.cli._paths import CHECKPOINT, Input, Output, Plan, files_in
from st_concepts.cli._pipeline import PICTURES, Settings, analyse, drop_results, pictures, summary
from st_concepts.cli._report import check_report
from st_concepts.cli._tissue import check_tissue
from st_concepts.concepts import get_estimator
from st_concepts.io import READERS, takers
from st_concepts.stats import NULLS
from st_concepts.tl import STATISTICS


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
    image: Path | None = None
    checkpoint: Path | None = None

    def expanded(self) -> Files:
        """With ``~`` replaced by the home folder."""
        return replace(self, **{name: expanded(p) for name, p in vars(self).items() if p is not None})

    def plan(self) -> Plan:
        """All that is read and written, under the names that the user gave."""
        given = {"IN": self.source, "--annotation": self.annotation, "--image": self.image}
        single = {"--markers": self.markers, "--model": self.model, "--report": self.report}
        return Plan(
            tuple(Input(option, path) for option, path in given.items() if path is not None),
            (
                Output("--out", self.out, "store" if self.out.suffix == ".zarr" else "file"),
                *(Output(option, path) for option, path in single.items() if path is not None),
                *files_in("--pictures", self.pictures, PICTURES),
                *files_in("--checkpoint", self.checkpoint, CHECKPOINT),
            ),
        )


@dataclass(frozen=True)
class Form:
    """What the input is, where that cannot be told from it; see `st_concepts.io.read`."""

    kind: str | None = None
    table: str | None = None
    bin_size: int | None = None
    image: Path | None = None
    scale: str = "1"  # of the drawing
    column: str | None = None  # of the annotation
    no_image: bool = False
    raw: bool = False  # counts from adata.raw


def run_file(files: Files, settings: Settings, *, form: Form, min_spots: int, stability: bool | None = None) -> None:
    """Read, check everything that can be wrong before the work starts, work, write."""
    files = replace(files, image=form.image, checkpoint=settings.checkpoint).expanded()
    settings = replace(settings, checkpoint=files.checkpoint)
    _check_options(files, settings, form)
    kind = form.kind or io.detect_kind(files.source)
    adata = _read(files, form, settings)
    if old := drop_results(adata):
        complain("note", f"{files.source} holds earlier results, which are replaced: {', '.join(old)}.")
    settings = replace(settings, null=_null(adata, settings.null))
    said = _check_data(adata, files, settings)
    if min_spots:
        adata = _seen(adata, settings.layer, min_spots)
    say(f"data: {files.source} ({READERS[kind].what}), {adata.n_obs} spots x {adata.n_vars} genes")
    with warnings.catch_warnings():
        for remark in said:
            warnings.filterwarnings("ignore", message=re.escape(remark))
        model = analyse(adata, settings)
    say(summary(adata))
    files.plan().check()  # the fit may have taken hours
    # SpatialData in, SpatialData out
    whole = files.source if kind == "spatialdata" and files.out.suffix == ".zarr" else None
    write_result(adata, files.out, source=whole, table=form.table)
    written = [files.out]
    if files.markers is not None:
        write_csv(get.markers(adata), files.markers)
        written.append(files.markers)
    if files.model is not None:
        make_folder(files.model.parent)
        model.save(files.model)
        written.append(files.model)
    if files.pictures is not None:
        written += pictures(adata, files.pictures, groupby=settings.groupby)
    if files.report is not None:
        report.write(adata, files.report, model=model, stability=stability, seed=settings.seed)
        written.append(files.report)
    say("written: " + ", ".join(map(str, written)))


def _check_options(files: Files, settings: Settings, form: Form) -> None:
    """What can be known before anything is read."""
    if files.out.suffix not in (".h5ad", ".zarr"):
        raise UsageError(f"--out {files.out} must end in .h5ad or .zarr.")
    if files.report is not None:
        check_report("--report", files.report)
    if form.raw and settings.layer is not None:
        raise UsageError(f"--raw and --layer {settings.layer} name two matrices of counts; leave one out.")
    if settings.statistic not in STATISTICS:
        raise UsageError(f"--statistic {settings.statistic} is unknown; use {' or '.join(STATISTICS)}.")
    files.plan().check()
    get_method(settings.method)
    get_estimator(settings.estimator)


def _check_data(adata: AnnData, files: Files, settings: Settings) -> list[str]:
    """What can be known before the fit; returns the remarks that were made."""
    _check_column(adata, "--groupby", settings.groupby)
    for option, name in (("--batch-key", settings.batch_key), ("--section-key", settings.section_key)):
        if name is not None:
            _check_column(adata, option, name)
    said = check_tissue(adata, settings, drawn=files.pictures is not None or files.report is not None)
    _check_labels(adata, settings.groupby, settings.missing)
    if files.out.suffix == ".zarr" and any(":" in str(v) for v in adata.obs[settings.groupby].dropna().unique()):
        raise UsageError(
            f"--groupby {settings.groupby}: a label holds a colon, which a ranking in a zarr store cannot; rename "
            "it, or let --out end in .h5ad."
        )
    check_counts(adata, settings.layer)
    return said


def _read(files: Files, form: Form, settings: Settings) -> AnnData:
    groupby = settings.groupby
    more: dict[str, Any] = {} if files.image is None else {"image": files.image}
    if files.image is not None:
        _check_image(files, form)
    if more and form.no_image:
        raise UsageError("--image and --no-image exclude each other; leave one out.")
    more["load_images"] = not form.no_image
    adata = io.read(files.source, kind=form.kind, table=form.table, bin_size=form.bin_size, **more)
    if form.column is not None and files.annotation is None:
        raise UsageError(f"--column {form.column} is of the file of --annotation, which is not given.")
    if form.raw:
        adata = _from_raw(adata, files.source)
    if files.annotation is not None:
        io.read_annotation(
            adata,
            files.annotation,
            key=groupby,
            scale=_scale(form.scale),
            column=form.column,
            missing=settings.missing,
        )
        say(f"labels: {int(adata.obs[groupby].notna().sum())} of {adata.n_obs} spots, from {files.annotation}")
    return adata


def _check_image(files: Files, form: Form) -> None:
    reader = READERS.get(form.kind or io.detect_kind(files.source))
    if reader is None or "image" not in reader.options:
        raise UsageError(
            f"--image {form.image} is for {takers('image')}; {files.source} brings its own image or has none."
        )


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
    if null not in NULLS:
        raise UsageError(f"--null {null} is unknown; use {', '.join(NULLS)}.")
    if NULLS[null].needs_positions and not spatial:
        raise UsageError(f"--null {null} needs coordinates in obsm['spatial']; use --null permutation.")
    return null


def _check_column(adata: AnnData, option: str, name: str) -> None:
    if name in adata.obs:
        return
    columns = [str(c) for c in adata.obs.columns]
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
    have = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(columns[:20]) or 'none'}."
    raise UsageError(f"{option} {name}: obs has no such column. {have}")


def _check_labels(adata: AnnData, groupby: str, missing: tuple[str, ...] | None) -> None:
    values = adata.obs[groupby]
    remarks: list[str] = []
    if is_boolean(values):
        names, known = [str(v) for v in values.dropna().unique()], int(values.notna().sum())
        taken = ""
    else:
        labels = clean_labels(values, missing=missing, where=f"--groupby {groupby}")
        names, known = labels.names, int((labels.codes >= 0).sum())
        remarks = labels.said()
        taken = f" ({taken_as_missing(labels.taken)})".replace("missing=", "--missing") if labels.taken else ""
    if known == 0:
        raise UsageError(f"--groupby {groupby}: every spot is unlabelled{taken}.")
    if len(names) < 2:
        raise UsageError(
            f"--groupby {groupby}: all labelled spots are {names[0]!r}; at least two labels are needed{taken}."
        )
    for remark in remarks:
        complain("note", f"--groupby {groupby}: {remark}.".replace("missing=", "--missing"))
