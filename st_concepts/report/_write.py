"""`stc.report.write`: everything into one file."""

from __future__ import annotations

import functools
import importlib.resources
import io
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData

from st_concepts._counts.images import TissueImage, read_images
from st_concepts._counts.layers import layers_of
from st_concepts._counts.sections import Sections, sections_of
from st_concepts._files import make_folder, replaceable, whole_file
from st_concepts._log import get_logger
from st_concepts._slots import KEYS, MAP_SLOTS, saliency_layer
from st_concepts.concepts import ConceptSet, read_concepts
from st_concepts.models import SpotVAE, as_encoder
from st_concepts.pl import INSIDE, OUTSIDE, concept_scores
from st_concepts.report import _checks, _markers, _overlays, _pack, _tables

T = TypeVar("T")

_SVG_SPOTS = 20_000  # drawn one by one, sharp in print; more need the graphics card
_CHECKED_SPOTS = 20_000  # more would take minutes
_REFIT_WORK = 500_000_000  # spots x genes x epochs of one fit: a minute or so
_MOST_PANELS = 12
_MOST_LISTED = 200  # rows of the smaller tables


def write(
    adata: AnnData,
    path: str | PathLike[str],
    *,
    model: Any = None,
    title: str | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    section_key: str | None = None,
    stability: bool | None = None,
    n_genes: int = 10,
    n_rows: int | None = None,
    max_spots: int = 50_000,
    seed: int = 0,
) -> None:
    """Write a result as one self-contained HTML file, to open offline or to mail.

    The tissue with its image and an overlay that the reader chooses (layers, concept scores, expression, saliency),
    score histograms, marker tables to sort, search and download, agreement of sections or halves, doubtful labels,
    parameters, versions, fingerprint of the data and what to cite. The file loads nothing from elsewhere.

    Parameters
    ----------
    adata
        Result of `st_concepts.tl.concepts`; what the other functions of `st_concepts.tl` wrote is shown too. Only read.
    path
        File to write, ``.html``.
    model
        The model behind the concepts: saliency maps of all top genes and, up to 20,000 spots, a check that saliency is
        faithful to the model are then computed for the report. Without it those maps are shown that
        `st_concepts.tl.saliency_map` left in ``adata.layers``.
    title
        Heading; by default the sections.
    tables
        Further tables to show by heading, ``{"Recovery": stc.evaluate.marker_recovery(...)}``, say; of each the first
        ``n_rows`` rows (200).
    section_key
        Column of ``adata.obs`` with the section of each spot. By default the one that the markers were tested with, the
        model's ``section_key``, or ``section``, ``library_id`` or ``sample``.
    stability
        Fit two more models with other seeds and show how far they agree: as long again as two fits. By default where
        ``model`` is a `SpotVAE` and a fit is quick (spots x genes x epochs up to 5e8, about a minute). Without
        ``model`` three are fitted.
    n_genes
        Top markers and most salient genes of each concept that can be drawn.
    n_rows
        Genes of each concept in the marker table, to search and to download. By default all, or as many as make
        100,000 rows; the page then says how many.
    max_spots
        Spots that are drawn; of more, a random part.
    seed
        Of that part.

    Raises
    ------
    KeyError
        No concepts in ``adata``; ``section_key`` is not a column.
    OSError
        The folder cannot be made or written.
    ImportError
        ``pip install 'st_concepts[report]'`` is needed.
    ValueError
        ``path`` does not end in ``.html`` or is no regular file; a count is below 1; the model is not that of the
        concepts; coordinates are missing or infinite; sections lie on each other and nothing tells them apart.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import st_concepts as stc
    >>> adata = stc.datasets.simulated_bulb(n_obs=200, n_vars=150, seed=0)
    >>> model = stc.SpotVAE(adata, n_latent=5).fit(max_epochs=0, progress=False)
    >>> stc.tl.concepts(adata, model, groupby="layer")
    >>> stc.tl.rank_genes_concepts(adata, n_null=0)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "report.html"
    >>> stc.report.write(adata, path, model=model)
    >>> path.stat().st_size < 10e6
    True
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} must end in .html.")
    if min(n_genes, 1 if n_rows is None else n_rows, max_spots) < 1:
        raise ValueError("n_genes, n_rows and max_spots must be at least 1.")
    made = read_concepts(adata)
    if model is not None:
        made.check_model(as_encoder(model).fingerprint)
    sections = sections_of(adata, section_key, warn=False)
    images, remarks = _images(adata, sections)
    for remark in [*sections.remarks, *remarks]:
        get_logger("report").warning("%s", remark)
    make_folder(replaceable(path).parent)  # before the work
    embedded = libraries()
    genes = _overlays.top_genes(adata, made, n_genes)
    agreed = None
    if adata.n_obs <= _CHECKED_SPOTS:
        agreed = _attempt("agreement", _checks.agreement, adata, made, seed, section_key)
    checks = [] if agreed is None else [agreed.check]
    checks += _further_checks(adata, model, stability, seed)
    checks += [_checks.Check(heading, "", table) for heading, table in (tables or {}).items()]
    if model is not None:
        adata = _with_maps(adata, model, made, genes)
    rows = np.arange(adata.n_obs)
    if adata.n_obs > max_spots:
        rows = np.sort(np.random.default_rng(seed).choice(adata.n_obs, max_spots, replace=False))
    page = _page(
        adata,
        made,
        genes,
        rows,
        embedded,
        sections=(sections, images),
        title=title,
        n_rows=n_rows,
        checks=checks,
        agreed=agreed,
        model=model,
    )
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _further_checks(adata: AnnData, model: Any, stability: bool | None, seed: int) -> list[_checks.Check]:
    """Checks that need no halves of the data, as far as they can be made."""
    checks = [_attempt("the test of the layers", _checks.there, adata)]
    if KEYS.SALIENCY_CONTEXT in adata.varm:
        checks.append(_attempt("the share of the surroundings", _checks.around, adata))
    if model is not None and KEYS.SALIENCY in adata.varm and adata.n_obs <= _CHECKED_SPOTS:
        checks.append(_attempt("faithfulness", _checks.faithful, adata, model, seed))
    if stability or (stability is None and isinstance(model, SpotVAE) and _quick(model, adata.n_obs)):
        checks.append(_attempt("stability", _checks.stable, adata, model, seed))
    return [check for check in checks if check is not None]


def _page(
    adata: AnnData,
    made: ConceptSet,
    genes: dict[str, list[str]],
    rows: np.ndarray,
    embedded: dict[str, str],
    *,
    sections: tuple[Sections, list[TissueImage | None]],
    title: str | None,
    n_rows: int | None,
    checks: list[_checks.Check],
    agreed: _checks.Agreement | None,
    model: Any,
) -> str:
    import jinja2

    table = _markers.markers(adata, made, n_rows, agreed)
    data = _for_scripts(adata, made, genes, rows) | {
        "sections": _overlays.sections(adata, rows, *sections),
        "markers": None if table is None else table.packed(),
        "doubtful": _tables.doubtful(adata, made, n_rows or _MOST_LISTED),
    }
    own = importlib.resources.files("st_concepts.report")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (own / "template.html").read_text(encoding="utf-8")
    )
    names = [s["name"] for s in data["sections"] if s["name"]]
    return template.render(
        title=title or (", ".join(names) if names else "Concepts of tissue layers"),
        n_obs=adata.n_obs,
        n_vars=adata.n_vars,
        groupby=made.groupby,
        concepts=made.names,
        labelled=made.params.get("kind") in ("groupby", "mask"),
        n_drawn=len(rows),
        written=datetime.now(UTC).strftime("%Y-%m-%d"),
        table=table,
        top=[] if table is None else table.top(12),
        doubtful=data["doubtful"],
        checks=[(c.heading, c.caption, *_tables.plain(c.table, n_rows or _MOST_LISTED)) for c in checks],
        settings=_tables.settings(adata, made, model),
        versions=_tables.versions(),
        fingerprint=_tables.fingerprint(adata, made.layer),
        citations=_tables.citations(adata),
        webgl=data["webgl"],
        still=_still(adata, made, rows, sections[0]),
        sections=str(sections[0]),
        has_saliency=any(o["kind"] in _overlays.MAPS for o in data["overlays"]),
        css=(own / "style.css").read_text(encoding="utf-8"),
        js=(own / "page.js").read_text(encoding="utf-8"),
        data=_pack.json_for_script(data),
        **embedded,
    )


def _for_scripts(adata: AnnData, made: ConceptSet, genes: dict[str, list[str]], rows: np.ndarray) -> dict[str, Any]:
    """What the scripts of the page draw."""
    return {
        "spots": adata.obs_names[rows].astype(str).tolist(),
        "overlays": _overlays.collect(adata, made, genes, rows),
        "concepts": made.names,
        "genes": genes,
        "histograms": _tables.histograms(adata, made),
        "scales": {name: _scale(name) for name in _overlays.SCALES},
        "best": _overlays.BEST,
        "inside": INSIDE,
        "outside": OUTSIDE,
        "webgl": len(rows) > _SVG_SPOTS,
    }


def _quick(model: SpotVAE, n_obs: int) -> bool:
    return n_obs * len(model.var_names) * max(len(model.history) - 1, 1) <= _REFIT_WORK


def _attempt(name: str, check: Callable[..., T], *args: Any) -> T | None:
    """A check that cannot be made (too few genes, no counts) is left out, with a word; the report stands."""
    try:
        return check(*args)
    except (KeyError, ValueError) as error:
        get_logger("report").warning("%s is left out of the report: %s", name, error)
        return None


def _images(adata: AnnData, sections: Sections) -> tuple[list[TissueImage | None], list[str]]:
    if KEYS.SPATIAL not in adata.obsm:
        return [None] * len(sections.names), []
    return read_images(adata, sections)


def _still(adata: AnnData, made: ConceptSet, rows: np.ndarray, sections: Sections) -> str | None:
    """The scores of all concepts as one picture, for print and for readers without scripts."""
    import matplotlib.pyplot as plt
    from matplotlib.text import Text
    from PIL import Image

    if KEYS.SPATIAL not in adata.obsm or len(sections.names) * len(made.names) > _MOST_PANELS:
        return None
    key = sections.key if sections.several else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on sections and images were made before
        axes = _attempt(
            "the picture of all scores",
            lambda: concept_scores(adata[rows], library_key=key, show=False, save=False),
        )
        if axes is None:
            return None
        figure: Any = np.ravel(np.array(axes, dtype=object))[0].figure
        for text in figure.findobj(Text):
            text.set_parse_math(False)  # a dollar in a name is a dollar
        try:
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=100)
        finally:
            plt.close(figure)  # a notebook would show it
    with Image.open(drawn) as picture:
        return _pack.jpeg(np.asarray(picture.convert("RGB")), 1400)


@functools.cache
def libraries() -> dict[str, str]:
    """The drawing and table libraries, from the packages that bring them; scripts as gzip in base64."""
    try:
        import itables
        import jinja2  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(f"The report needs {error.name}: pip install 'st_concepts[report]'.") from None
    files = importlib.resources.files(itables) / "html"
    return {
        "plotly": _pack.squeezed(get_plotlyjs().encode("utf-8")),
        "table_css": (files / "dt_bundle.css").read_text(encoding="utf-8"),
        "table_js": _pack.squeezed((files / "dt_bundle.js").read_bytes()),
    }


def _with_maps(adata: AnnData, model: Any, made: ConceptSet, genes: dict[str, list[str]]) -> AnnData:
    """``adata`` with the saliency maps of all top genes, in layers of its own; the one given is not touched."""
    from st_concepts import tl

    light = AnnData(
        adata.X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=dict(adata.uns),
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        layers=layers_of(adata),
    )
    method = _tables.saliency_method(adata)
    for name, label in zip(made.names, made.labels, strict=True):
        if not genes[name]:
            continue
        asked: dict[str, Any] = {"concept": name, "genes": genes[name], "method": method}
        both, own, context = (saliency_layer(label, slot) for slot in MAP_SLOTS.values())
        tl.saliency_map(light, model, **asked, key_added=both)
        if light.uns[both]["part"] == "both" and light.n_obs <= _SVG_SPOTS:
            tl.saliency_map(light, model, **asked, part="surroundings", key_added=context)
            light.layers[own] = light.layers[both] - light.layers[context]
    return light


def _scale(cmap: str) -> list[list[Any]]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    at = np.linspace(0, 1, 17)
    return [[float(v), to_hex(c)] for v, c in zip(at, colormaps[cmap](at), strict=True)]
