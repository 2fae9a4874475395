"""``st-concepts report``."""

from __future__ import annotations

from pathlib import Path

from st_concepts import SpotVAE, io, report
from st_concepts._files import expanded
from st_concepts._slots import KEYS
from st_concepts.cli._errors import UsageError, one_line, say
from st_concepts.cli._paths import Input, Output, Plan
from st_concepts.report import libraries


def check_report(option: str, path: Path) -> None:
    """Refuse what would fail only after the work is done: the ending, a missing library."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option} {path} must end in .html.")
    try:
        libraries()
    except ImportError as error:
        raise UsageError(one_line(error)) from error


def run_report(
    source: Path,
    out: Path,
    *,
    model: Path | None,
    table: str | None,
    title: str | None,
    stability: bool | None,
    section_key: str | None = None,
) -> None:
    """Write the report of a result."""
    source, out = expanded(source), expanded(out)
    given = [Input("IN", source)] + ([] if model is None else [Input("--model", expanded(model))])
    plan = Plan(tuple(given), (Output("--out", out),))
    check_report("--out", out)
    plan.check()
    adata = io.read(source, table=table)
    if KEYS.CONCEPTS not in adata.uns:
        raise UsageError(f"{source} holds no result (no uns[{KEYS.CONCEPTS!r}]); make one with st-concepts run.")
    loaded = None if model is None else SpotVAE.load(expanded(model))
    report.write(adata, out, model=loaded, title=title, section_key=section_key, stability=stability)
    say(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB")
