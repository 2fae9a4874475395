"""Layers for several sections in one AnnData, where a barcode alone does not say which spot is meant."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.frames import column as obs_column
from st_concepts._counts.labels import BLANKS, clean_labels, fold, missing_words, taken_as_missing, tidy
from st_concepts._slots import KEYS

from .sheet import Sheet, read_sheet
from .table import Table, read_barcodes


def settled(
    labels: np.ndarray, order: list[str], missing: Iterable[str] | str | None, keep: Collection[str], where: str
) -> tuple[np.ndarray, list[str], list[str], str]:
    """Labels as every other part of the package reads them.

    Gives them as object ``(n_obs,)``, `None` where missing; labels in the order of the file, those without a spot
    included; remarks on words that were taken as missing and labels that differ little; and what is only logged, the
    spellings of a missing value that programs write.
    """
    column = pd.Series(pd.Categorical(labels, categories=list(dict.fromkeys(order))))
    made = clean_labels(column, missing=missing, keep=keep, where=where, names_allowed=True)
    names = np.array([*made.names, None], dtype=object)
    words = missing_words(missing)
    kept = {tidy(k) for k in keep}
    left = [name for o in order if (name := tidy(o)) in kept or fold(name) not in words]
    # words that were named for this file need no remark
    usual = words if missing is not None else {fold(word) for word in BLANKS} | {""}
    blank = {word: n for word, n in made.taken.items() if fold(word) in usual}
    words_taken = {word: n for word, n in made.taken.items() if word not in blank}
    remarks = ([taken_as_missing(words_taken)] if words_taken else []) + list(made.remarks)
    return names[made.codes], list(dict.fromkeys(left)), remarks, f" ({_counts(blank)})" if blank else ""


def _counts(words: Mapping[str, int]) -> str:
    return ", ".join(f"{word!r} {n}" for word, n in words.items())


def by_section(
    adata: AnnData,
    paths: Mapping[str, Any],
    key: str,
    section_key: str | None,
    read: Callable[..., AnnData | None],
    options: dict[str, Any],
) -> pd.Categorical:
    """Labels of every spot from one file a section, each read by ``read``."""
    if section_key is None:
        raise ValueError("A file for each section needs section_key=, the column of obs with the section of each spot.")
    sections, have = _sections(adata, section_key)
    if unknown := [str(s) for s in paths if str(s) not in have]:
        raise ValueError(f"No spot of obs[{section_key!r}] is in section {unknown[0]!r}; there are: {', '.join(have)}.")
    labels = np.array([None] * adata.n_obs, dtype=object)
    order: list[str] = []
    for section, path in paths.items():
        rows = sections == str(section)
        part = _part(adata, rows, str(section))
        read(part, path, key, **options)
        values = part.obs[key]
        order += [name for name in values.cat.categories if name not in order]
        labels[rows] = values.astype(object).where(values.notna(), None).to_numpy()
    return pd.Categorical(labels, categories=order, ordered=options["categories"] is not None)


def table_by_section(
    adata: AnnData, path: Path, section_key: str, *, key: str, column: str | None, missing: Iterable[str] | str | None
) -> Table:
    """Labels of every spot from one table that names section and barcode."""
    sheet = read_sheet(path)
    header = [name.casefold() for name in sheet.header]
    if section_key.casefold() not in header:
        raise ValueError(
            f"{path} has no column {section_key!r}, which section_key= names; there are: {', '.join(sheet.header)}. "
            "For a file of one section give {section: path}."
        )
    at = header.index(section_key.casefold())
    sections, have = _sections(adata, section_key)
    named = list(dict.fromkeys(row[at] for row in sheet.rows))
    if not (both := [section for section in named if section in have]):
        raise ValueError(
            f"{path}: no section of the data ({', '.join(have)}) is in its column {sheet.header[at]!r} "
            f"({', '.join(named[:5])})."
        )
    labels = np.array([None] * adata.n_obs, dtype=object)
    order: list[str] = []
    remarks = list(sheet.remarks)
    for section in both:
        rows = sections == section
        part = Sheet(_without(sheet.header, at), [_without(row, at) for row in sheet.rows if row[at] == section])
        found = read_barcodes(path, adata.obs_names[rows], key=key, column=column, missing=missing, sheet=part)
        labels[rows] = found.labels
        order += [name for name in found.order if name not in order]
        remarks += [f"section {section}: {remark}" for remark in found.remarks]
    if lost := [section for section in named if section not in have]:
        remarks.append(f"sections that are not in the data: {', '.join(lost[:5])}")
    return Table(labels, order, remarks)


def _without(fields: list[str], at: int) -> list[str]:
    return fields[:at] + fields[at + 1 :]


def _sections(adata: AnnData, section_key: str) -> tuple[np.ndarray, list[str]]:
    """Section of each spot as text, `None` where it has none, and the sections."""
    if section_key not in adata.obs:
        have = ", ".join(map(str, adata.obs.columns)) or "none"
        raise KeyError(f"section_key={section_key!r} is not a column of adata.obs (it has: {have}).")
    values = obs_column(adata.obs, section_key)
    sections: np.ndarray = np.where(values.isna(), None, values.astype(str))  # type: ignore[assignment]  # numpy: no None
    return sections, [s for s in dict.fromkeys(sections) if s is not None]


def _part(adata: AnnData, rows: np.ndarray, section: str) -> AnnData:
    """Names and places of the spots of one section, and its own images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # names that are not unique are said where it matters
        part = AnnData(obs=pd.DataFrame(index=adata.obs_names[rows]))
    if KEYS.SPATIAL in adata.obsm:
        part.obsm[KEYS.SPATIAL] = np.asarray(adata.obsm[KEYS.SPATIAL])[rows]
    images = adata.uns.get(KEYS.SPATIAL, {})
    if isinstance(images, Mapping):
        part.uns[KEYS.SPATIAL] = {section: images[section]} if section in images else dict(images)
    return part
