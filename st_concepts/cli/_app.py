"""The commands. What computes is imported when a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from st_concepts import __version__
from st_concepts.cli._errors import (
    PROGRAM,
    any_text_can_be_said,
    complain,
    foreseen,
    one_line,
    out_of_memory,
    quiet_warnings,
    say,
    unforeseen_line,
)

app = typer.Typer(
    name=PROGRAM,
    help="Concepts of tissue layers: what a generative model sees in each layer, per gene and per spot.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# base of all usage errors; typer carries its own copy of click or takes the installed one, depending on its version
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

Stability = Annotated[
    bool | None,
    typer.Option(
        "--stability/--no-stability",
        help="In the report: fit two more models and show how far they agree, which takes as long as two fits. "
        "By default where the model is at hand and a fit takes a minute or less.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]


def _version(asked: bool) -> None:
    if asked:
        say(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    dataset: Annotated[
        str, typer.Option(help="'mob' (mouse olfactory bulb), 'simulated', or 'auto': the bulb where it can be had.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the result, tables and pictures.")] = Path("build/demo"),
    seed: Seed = 0,
) -> None:
    """Run the main job on an example section; leave result, tables and pictures."""
    from st_concepts.cli._demo import run_demo

    run_demo(dataset, out.expanduser(), seed=seed)


@app.command()
def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Section with raw counts, never changed: .h5ad, AnnData or SpatialData .zarr, Space Ranger or Xenium "
            "output folder or count matrix, ST table.",
        ),
    ],
    groupby: Annotated[str, typer.Option(help="Column of obs with the layer of each spot; gaps are allowed.")],
    out: Annotated[Path, typer.Option(help="Result, .h5ad or .zarr; .zarr of a SpatialData IN is SpatialData.")],
    annotation: Annotated[
        Path | None, typer.Option(help="Layers drawn elsewhere (CSV, QuPath GeoJSON, ...), read into --groupby.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Of --annotation: its pixels per unit of the spots, or 'hires' or 'lowres'.")
    ] = "1",
    column: Annotated[
        str | None, typer.Option(help="Column of --annotation with the labels, where it has several.")
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="Word that means no label, in place of the usual ones (nan, NA, unknown, ...); may be given several "
            "times, or several words with commas."
        ),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer that holds the raw counts; by default X.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take the counts, and all its genes, from .raw.")] = False,
    batch_key: Annotated[
        str | None,
        typer.Option(help="Column of obs with the section of each spot for the model too, which then corrects for it."),
    ] = None,
    section_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs with the section of each spot, for tests and pictures alone: the model does not "
            "correct for it. By default --batch-key, then section, library_id or sample."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Attribution method of the saliency.")] = "integrated_gradients",
    estimator: Annotated[
        str, typer.Option(help="Concept vectors: 'discriminant', 'mean_difference' or 'logistic'.")
    ] = "discriminant",
    statistic: Annotated[str, typer.Option(help="Statistic of the markers.")] = "pattern",
    null: Annotated[
        str | None,
        typer.Option(help="Null of the p-values: 'moran', 'permutation', 'none'; by default moran with coordinates."),
    ] = None,
    n_latent: Annotated[int, typer.Option(min=1, help="Latent dimensions.")] = 20,
    max_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Most epochs of training; 0 keeps the warm start. By default chosen by size."),
    ] = None,
    min_spots: Annotated[int, typer.Option(min=0, help="Leave out genes seen in fewer spots.")] = 0,
    maps: Annotated[int, typer.Option(min=0, help="Genes per concept to map spot by spot.")] = 0,
    markers: Annotated[Path | None, typer.Option(help="Also write the markers as CSV.")] = None,
    model: Annotated[Path | None, typer.Option(help="Also write the model.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the state of the training in this folder, and go on from there.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Also draw, into this folder.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report, .html.")] = None,
    stability: Stability = None,
    kind: Annotated[str | None, typer.Option(help="What IN is, if it is not recognised.")] = None,
    table: Annotated[str | None, typer.Option(help="Table of a SpatialData store, if it has several.")] = None,
    bin_size: Annotated[int | None, typer.Option(help="Bin size of Visium HD, in micrometres.")] = None,
    image: Annotated[Path | None, typer.Option(help="Histology image of an ST table that spans the array.")] = None,
    no_image: Annotated[bool, typer.Option("--no-image", help="Leave the histology images of IN out.")] = False,
    seed: Seed = 0,
) -> None:
    """Explain the layers of a section: concepts, saliency and markers, written to a new file."""
    from st_concepts.cli._pipeline import Settings
    from st_concepts.cli._run import Files, Form, run_file

    settings = Settings(
        groupby=groupby,
        layer=layer,
        batch_key=batch_key,
        section_key=section_key,
        n_latent=n_latent,
        max_epochs=max_epochs,
        estimator=estimator,
        method=method,
        statistic=statistic,
        null=null or "",
        n_maps=maps,
        seed=seed,
        checkpoint=checkpoint,
        missing=None if missing is None else tuple(word for given in missing for word in given.split(",")),
    )
    files = Files(source, out, markers, model, pictures, annotation, report)
    run_file(
        files,
        settings,
        form=Form(kind, table, bin_size, image, scale, column, no_image, raw),
        min_spots=min_spots,
        stability=stability,
    )


@app.command()
def score(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Another section with raw counts, never changed; as for run.")
    ],
    concepts: Annotated[Path, typer.Option(help="What st-concepts run wrote for the annotated section.")],
    model: Annotated[Path, typer.Option(help="What run --model wrote.")],
    out: Annotated[Path, typer.Option(help="Result, .h5ad or .zarr; .zarr of a SpatialData IN is SpatialData.")],
    labels: Annotated[
        Path | None, typer.Option(help="Also write the predicted labels as CSV: spot, label, probability.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability below which a spot is given no label.")
    ] = 0.0,
    layer: Annotated[
        str | None, typer.Option(help="Layer that holds the raw counts; by default that of the model.")
    ] = None,
    section_key: Annotated[
        str | None, typer.Option(help="Column of obs with the section of each spot, where IN holds several.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="What IN is, if it is not recognised.")] = None,
    table: Annotated[str | None, typer.Option(help="Table of a SpatialData store, if it has several.")] = None,
) -> None:
    """Score another section with the concepts of a result, and predict the layer of its spots."""
    from st_concepts.cli._score import ScoreFiles, run_score

    files = ScoreFiles(source, concepts, model, out, labels)
    run_score(files, kind=kind, table=table, layer=layer, section_key=section_key, threshold=threshold)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="RESULT", help="What st-concepts run wrote, .h5ad or .zarr.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .html.")],
    model: Annotated[
        Path | None, typer.Option(help="What run --model wrote: saliency maps of all top genes are then computed.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="Table of a SpatialData store, if it has several.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading; by default the sections.")] = None,
    section_key: Annotated[
        str | None, typer.Option(help="Column of obs with the section of each spot, where it is not found by itself.")
    ] = None,
    stability: Stability = None,
) -> None:
    """Write a result as one HTML file that opens offline."""
    from st_concepts.cli._report import run_report

    run_report(source, out, model=model, table=table, title=title, stability=stability, section_key=section_key)


@app.command()
def datasets() -> None:
    """List the data sets, and whether they are on this machine."""
    from st_concepts.cli._demo import list_datasets

    list_datasets()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0, 2 for input that cannot be used (one line on stderr), 130 when interrupted.

    Errors that no check foresaw are bugs: one line, exit code 1, and the traceback in a file that the line names.
    """
    any_text_can_be_said()
    quiet_warnings()
    sys.exit(_code(list(sys.argv[1:] if argv is None else argv)))


def _code(argv: list[str]) -> int:
    # typer's own way out prints a usage box; here every error is one line
    try:
        code = app(args=argv or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except _ClickException as error:
        message = error.format_message()  # type: ignore[attr-defined]  # of click
        complain("error", " ".join(message.split()).rstrip(".") + _see_help(error))
        return 2
    except typer.Abort as error:
        if isinstance(error.__cause__, EOFError):  # which typer takes for the end of what the user types
            return _told(error.__cause__)
        code = 130
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        return 1  # who was to read it has gone
    except Exception as error:  # noqa: BLE001 (the outermost place: nothing passes it as a traceback)
        return _told(error)
    if code == 130:
        complain("error", "interrupted; no result was written.")
    return code if isinstance(code, int) else 0


def _told(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    if out_of_memory(error):
        complain("error", f"not enough memory ({one_line(error)}). Use a larger machine, or fewer spots or genes.")
        return 1
    if not foreseen(error):
        complain("error", unforeseen_line(error))
        return 1
    complain("error", one_line(error))
    return 2


def _see_help(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"; see {context.command_path} --help" if context is not None else "."
