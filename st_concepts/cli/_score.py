"""``st-concepts score``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from st_concepts import SpotVAE, get, io, tl
from st_concepts._files import expanded
from st_concepts._slots import KEYS
from st_concepts.cli._errors import UsageError, complain, say
from st_concepts.cli._files import write_csv, write_result
from st_concepts.cli._paths import Input, Output, Plan
from st_concepts.cli._pipeline import drop_results
from st_concepts.concepts import ConceptSet, read_concepts


@dataclass(frozen=True)
class ScoreFiles:
    """What is read and written; `None` for what was not asked for."""

    source: Path
    concepts: Path
    model: Path
    out: Path
    labels: Path | None = None

    def expanded(self) -> ScoreFiles:
        """With ``~`` replaced by the home folder."""
        return ScoreFiles(**{name: expanded(p) for name, p in vars(self).items() if p is not None})

    def plan(self) -> Plan:
        """All that is read and written, under the names that the user gave."""
        labels = () if self.labels is None else (Output("--labels", self.labels),)
        return Plan(
            (Input("IN", self.source), Input("--concepts", self.concepts), Input("--model", self.model)),
            (Output("--out", self.out, "store" if self.out.suffix == ".zarr" else "file"), *labels),
        )


def run_score(
    files: ScoreFiles,
    *,
    kind: str | None,
    table: str | None,
    layer: str | None,
    section_key: str | None,
    threshold: float,
) -> None:
    """Score a section with concepts of another, and predict its labels."""
    files = files.expanded()
    if files.out.suffix not in (".h5ad", ".zarr"):
        raise UsageError(f"--out {files.out} must end in .h5ad or .zarr.")
    files.plan().check()
    made = _concepts(files.concepts)
    model = SpotVAE.load(files.model)
    made.check_model(model.fingerprint)
    kind = kind or io.detect_kind(files.source)
    adata = io.read(files.source, kind=kind, table=table)
    if old := drop_results(adata):
        complain("note", f"{files.source} holds earlier results, which are replaced: {', '.join(old)}.")
    say(f"data: {files.source}, {adata.n_obs} spots x {adata.n_vars} genes")
    tl.score_concepts(adata, model, concepts=made, section_key=section_key, layer=layer)
    if made.calibration is None:
        complain("note", "the concepts were made without labels, so no labels are predicted.")
    else:
        tl.predict_labels(adata, model, concepts=made, threshold=threshold, section_key=section_key, layer=layer)
        n = adata.obs[KEYS.LABEL].value_counts(sort=False, dropna=False)
        say("labels: " + ", ".join(f"{v} {name}" if name == name else f"{v} without" for name, v in n.items()))
    files.plan().check()
    whole = files.source if kind == "spatialdata" and files.out.suffix == ".zarr" else None
    write_result(adata, files.out, source=whole, table=table)
    written = [files.out]
    if files.labels is not None:
        write_csv(get.concept_labels(adata), files.labels)
        written.append(files.labels)
    say("written: " + ", ".join(map(str, written)))


def _concepts(path: Path) -> ConceptSet:
    result = io.read(path)
    if KEYS.CONCEPTS not in result.uns:
        raise UsageError(
            f"--concepts {path} holds no result (no uns[{KEYS.CONCEPTS!r}]); make one with st-concepts run."
        )
    return read_concepts(result)
