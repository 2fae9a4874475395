"""What a command reads and writes, decided in one place before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from st_concepts._files import (
    check_folder,
    hard_linked,
    linked_from,
    real,
    relation,
    repair,
    replaceable,
    store_root,
    writable,
)
from st_concepts.cli._errors import UsageError

Kind = Literal["file", "store", "folder"]

CHECKPOINT = ("checkpoint.stc", "previous.stc", "next.stc")


@dataclass(frozen=True)
class Input:
    """A file or folder that is read; ``option`` is how the user named it."""

    option: str
    path: Path

    def places(self) -> list[Path]:
        """Where it is; with the store that it is a part of, and what links inside of it lead to."""
        place = real(self.path)
        repair(place)
        found = [place]
        if (whole := store_root(place)) != place:
            found.append(whole)
        if place.suffix == ".h5" and (place.parent / "spatial").is_dir():
            found.append(place.parent / "spatial")  # the positions of a 10x file lie beside it
        return found + linked_from(place) if place.is_dir() else found


@dataclass(frozen=True)
class Output:
    """A file, a zarr store, or a folder to which files are added."""

    option: str
    path: Path
    kind: Kind = "file"


@dataclass(frozen=True)
class Plan:
    """All inputs and outputs of a command.

    An output may not be an input, lie in one or contain one, and no two outputs may be one place: seen through links,
    hard links and the case of names. Nothing may lie in a store or file that is written. Files may be written into the
    folder of the pictures or of the checkpoint, unless they are called like one of those.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def check(self) -> None:
        """Refuse what cannot be written without a loss."""
        places = [(given, place) for given in self.inputs for place in given.places()]
        for output in self.outputs:
            for given, place in places:
                _apart(output, given, place)
        targets = [_target(output) for output in self.outputs]
        for i, output in enumerate(self.outputs):
            for other in self.outputs[:i]:
                _two(output, other)
        for output, target in zip(self.outputs, targets, strict=True):
            _can_be_made(output, target)


def files_in(option: str, folder: Path | None, names: tuple[str, ...]) -> tuple[Output, ...]:
    """A folder that files are added to, and those files; nothing where the folder was not asked for."""
    if folder is None:
        return ()
    return (Output(option, folder, "folder"), *(Output(option, folder / name) for name in names))


def _apart(output: Output, given: Input, place: Path) -> None:
    found = relation(output.path, place)
    what = "folder" if place.is_dir() else "file"
    owner = f"the input {what}" if given.option == "IN" else f"the {what} of {given.option}"
    if found is None:
        target = real(output.path)
        if place.is_dir() and target.is_file() and (twin := hard_linked(place, target)) is not None:
            raise UsageError(f"{output.option} {output.path} is {twin} in {owner}, {_NEVER}; name another file.")
        return
    if (found == "contains" and output.kind == "file") or (found == "lies in" and not place.is_dir()):
        return  # a folder where a file should be, a file where a folder should be: said below
    raise UsageError(f"{output.option} {output.path} {found} {owner}, {_NEVER}; name another place.")


_NEVER = "which is never changed"


def _two(output: Output, other: Output) -> None:
    found = relation(output.path, other.path)
    if found is None or (output.option == other.option):
        return
    if found == "is":
        raise UsageError(f"{output.option} and {other.option} name the same {output.kind}, {output.path}.")
    inner, outer = (output, other) if found == "lies in" else (other, output)
    if outer.kind != "folder":
        raise UsageError(
            f"{inner.option} {inner.path} lies in {outer.option} {outer.path}, which is written as a whole; "
            "name another place."
        )


def _target(output: Output) -> Path:
    """The place of an output; what is there and is not replaced is refused."""
    from st_concepts.io import is_store

    option, path = output.option, output.path
    try:
        if output.kind == "store":
            return check_folder(path, is_store)
        if output.kind == "file":
            return replaceable(path)
        target = real(path)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None
    if target.exists() and not target.is_dir():
        raise UsageError(f"{option} {path} is a file; name a folder.")
    return target


def _can_be_made(output: Output, target: Path) -> None:
    """Refuse a place in a folder that cannot be made or written."""
    option, path = output.option, output.path
    nearest = target if output.kind == "folder" else target.parent
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"{option} {path}: {nearest} is not a folder.")
    if not writable(nearest):
        raise UsageError(f"{option} {path}: folder {nearest} cannot be written.")
