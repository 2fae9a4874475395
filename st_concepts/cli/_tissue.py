"""Sections, coordinates and images, checked before the work starts."""

from __future__ import annotations

from anndata import AnnData

from st_concepts._counts.images import read_images
from st_concepts._counts.positions import positions
from st_concepts._counts.sections import read_sections, sections_of
from st_concepts._slots import KEYS
from st_concepts.cli._errors import complain, one_line, say
from st_concepts.cli._pipeline import Settings
from st_concepts.stats import NULLS


def check_tissue(adata: AnnData, settings: Settings, *, drawn: bool) -> list[str]:
    """Say what the sections are, and raise what a test or a picture would raise after the fit; the remarks made."""
    if settings.batch_key is not None:
        read_sections(adata.obs, settings.batch_key, option="batch_key")
    found = sections_of(adata, settings.section_key, model_key=settings.batch_key, tested=False, warn=False)
    remarks = list(found.remarks)
    if KEYS.SPATIAL in adata.obsm and (drawn or NULLS[settings.null].needs_positions):
        positions(adata)
        if drawn:
            remarks += read_images(adata, found)[1]
    for remark in remarks:
        complain("note", one_line(ValueError(remark)))
    if found.several:
        say(f"sections: {found}")
        if found.how != "given":
            complain("note", f"sections are told apart by obs[{found.key!r}]; --section-key names another column.")
    return remarks
