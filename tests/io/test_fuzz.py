"""Damaged and odd files of every kind: nothing but a clear line that names the file ever comes out."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")  # of other libraries, about what they are given


@pytest.fixture(scope="module")
def section() -> AnnData:
    """A square of spots, with everything that a file can hold."""
    rng = np.random.default_rng(0)
    names = [f"AAAC{i:02d}-1" for i in range(36)]
    adata = AnnData(
        rng.poisson(2.0, (36, 25)).astype(np.float32),
        obs=pd.DataFrame({"layer": pd.Categorical(["a", "b", "c"] * 12), "size": rng.random(36)}, index=names),
        var=pd.DataFrame({"ids": [f"E{i}" for i in range(25)]}, index=[f"g{i}" for i in range(25)]),
        layers={"counts": rng.poisson(2.0, (36, 25)).astype(np.float32)},
        uns={"spatial": {"s": {"scalefactors": {"tissue_hires_scalef": 0.5}}}, "note": "text"},
    )
    adata.obsm["spatial"] = np.stack(np.divmod(np.arange(36), 6), 1) * 10.0
    return adata


def check(call: Callable[[], Any], path: Path, what: str) -> bool:
    """Whether a call was refused, in one clear line that names the file."""
    error = _error_of(call)
    if error is None:
        return False
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    assert isinstance(error, ValueError | KeyError | OSError), (what, type(error), message)
    assert not isinstance(error, UnicodeError), (what, message)
    assert message.strip(), (what, error)
    assert "\n" not in message, (what, message)
    assert path.name in message, (what, type(error), message)
    return True


def _error_of(call: Callable[[], Any]) -> Exception | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:  # noqa: BLE001 (what it may be is looked at by the caller)
        return error
    return None


def check_command(path: Path, capsys, what: str, *more: str) -> None:
    """The command refuses the file, or what is no column of it, with exit code 2 and one line."""
    with pytest.raises(SystemExit) as stop:
        main(["run", str(path), "--groupby", "no such column", "--out", str(path.parent / "out.h5ad"), *more])
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith(("st-concepts: warning:", "st-concepts: note:"))]
    assert stop.value.code == 2, (what, err)
    assert len(lines) == 1, (what, err)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, or the end missing."""
    data = bytearray(data)
    how = rng.randrange(4)
    at = rng.randrange(len(data))
    if how == 0:
        return bytes(data[:at])
    if how == 1:
        for _ in range(rng.choice((1, 4, 40))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 2:
        del data[at : at + rng.randrange(1, 400)]
    else:
        data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 50)))
    return bytes(data)


# ------------------------------------------------------------------------------------------------- stores


def test_h5ad_cut_short(section, tmp_path, capsys) -> None:
    # bytes overwritten at random are left out: the HDF5 library itself can loop for ever over such a file
    path = tmp_path / "cut.h5ad"
    section.write_h5ad(path)
    data, rng = path.read_bytes(), random.Random(0)
    for i in range(20):
        path.write_bytes(data[: rng.randrange(len(data))])
        assert check(lambda: stc.io.read(path), path, f"bytes {i}")
        if i < 3:
            check_command(path, capsys, f"bytes {i}")


ODD: list[Any] = [
    0,
    -1,
    1.5,
    float("nan"),
    "junk",
    b"\xff\xfe",
    np.zeros((2, 2)),
    np.array([], dtype="f8"),
    np.ones(36),
]


def test_h5ad_with_odd_members(section, tmp_path, capsys) -> None:
    path, rng = tmp_path / "odd.h5ad", random.Random(1)
    section.write_h5ad(path)
    good = path.read_bytes()
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
    refused = 0
    for i in range(60):
        path.write_bytes(good)
        name = names[i % len(names)]
        with h5py.File(path, "r+") as file:
            how = rng.randrange(5)
            if how == 0:
                del file[name]
            elif how == 1:
                del file[name]
                file[name] = rng.choice(ODD)
            elif how == 2:
                file[name].attrs["encoding-type"] = rng.choice(
                    ("of the future", "", "array", "dataframe", "csr_matrix")
                )
            elif how == 3:
                file[name].attrs["encoding-version"] = "99.9"
            else:
                for key in list(file[name].attrs):
                    del file[name].attrs[key]
        what = f"{i}: {name} {how}"
        refused += check(lambda: _all_of(path), path, what)
        if i % 12 == 0:
            check_command(path, capsys, what)
    assert refused > 15


def _all_of(path: Path) -> AnnData:
    assert stc.io.detect_kind(path) == "h5ad"
    return stc.io.read(path)


def test_matrices_that_are_no_counts(section, tmp_path, capsys) -> None:
    path = tmp_path / "x.h5ad"
    values = [np.zeros((36, 25), dtype=bool), np.full((36, 25), 2.0**40), np.full((36, 25), 1e300),
              np.full((36, 25), -1.0),
              np.full((36, 25), np.nan), np.full((36, 25), 1 + 1j), np.zeros((36, 25)), None]  # fmt: skip
    for i, value in enumerate(values):
        adata = AnnData(value, obs=section.obs, var=section.var)
        adata.write_h5ad(path)
        with pytest.raises(SystemExit) as stop:
            main(["run", str(path), "--groupby", "layer", "--out", str(tmp_path / "o.h5ad"), "--n-latent", "3"])
        err = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
        assert stop.value.code == 2, (i, err)
        assert len(err) == 1
        assert "count" in err[0]


def test_zarr_with_missing_and_garbled_members(section, tmp_path, capsys) -> None:
    good, path, rng = tmp_path / "good.zarr", tmp_path / "bad.zarr", random.Random(2)
    section.write_zarr(good)
    files = sorted(p.relative_to(good) for p in good.rglob("*") if p.is_file())
    for i in range(40):
        shutil.copytree(good, path)
        victim = path / rng.choice(files)
        how = rng.randrange(4)
        if how == 0:
            victim.unlink()
        elif how == 1:
            victim.write_bytes(damaged(victim.read_bytes() or b"x", rng))
        elif how == 2:
            victim.write_text(json.dumps(_json(rng, 3)), encoding="utf-8")
        else:
            shutil.rmtree(victim.parent)
        what = f"{i}: {victim.relative_to(path)} {how}"
        if path.exists():
            check(lambda: (stc.io.detect_kind(path), stc.io.read(path)), path, what)
            if i % 15 == 0:
                check_command(path, capsys, what)
            shutil.rmtree(path)


# ------------------------------------------------------------------------------------------------- drawings

_NUMBERS = (0, 1, -1, 15.5, 1e308, -1e308, float("nan"), float("inf"), 10**400, 2**63)
_WORDS = (
    "type", "features", "geometry", "coordinates", "properties", "classification", "name", "Feature", "Polygon",
    "geometries",
    "FeatureCollection", "GeometryCollection", "MultiPolygon", "Point", "id", "objectType", "annotation", "", "\x00",
    "µ",
)  # fmt: skip


def _json(rng: random.Random, depth: int) -> Any:
    """Any JSON, of words that mean something in GeoJSON."""
    how = rng.randrange(7 if depth else 4)
    if how < 4:
        return (None, rng.choice((True, False)), rng.choice(_NUMBERS[:6]), rng.choice(_WORDS))[how]
    if how == 4:
        return [_json(rng, depth - 1) for _ in range(rng.randrange(5))]
    return {rng.choice(_WORDS): _json(rng, depth - 1) for _ in range(rng.randrange(5))}


def _feature(label: Any = "a", ring: Any = None) -> dict[str, Any]:
    ring = [[-5, -5], [60, -5], [60, 60], [-5, 60], [-5, -5]] if ring is None else ring
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": label}}}


def _drawings(rng: random.Random) -> Iterator[str]:
    """GeoJSON that went wrong in one place, or everywhere."""
    yield from ("", "[", "null", "NaN", "[" * 100_000, "[" * 50_000 + "]" * 50_000, '{"type": "FeatureCollection"}')
    for number in ("NaN", "Infinity", "1e999", "9" * 500, "-" + "9" * 5000, '"12"', "null", "[[]]", "true"):
        yield json.dumps(_feature()).replace("60", number)
    for _ in range(60):
        whole = {"type": "FeatureCollection", "features": [_feature(), _feature("b")]}
        inner: Any = whole
        while True:  # down to a random place
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            key = rng.choice(keys)
            if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.3:
                break
            inner = inner[key]
        inner[key] = _json(rng, 3)
        yield json.dumps(whole)
    for _ in range(30):
        yield json.dumps(_json(rng, 5))


def annotated(section: AnnData, path: Path, what: str, **options: Any) -> bool:
    return check(lambda: stc.io.read_annotation(section, path, key="drawn", copy=True, **options), path, what)


def test_geojson(section, tmp_path) -> None:
    path = tmp_path / "drawing.geojson"
    texts = list(_drawings(random.Random(3)))
    refused = 0
    for i, text in enumerate(texts):
        path.write_text(text, encoding="utf-8")
        refused += annotated(section, path, f"{i}: {text[:300]}")
    assert refused > len(texts) // 2
    for encoding in ("utf-16", "utf-8-sig", "latin-1"):
        path.write_bytes(json.dumps(_feature("µ"), ensure_ascii=False).encode(encoding))
        annotated(section, path, encoding)


def test_damaged_gzip(section, tmp_path, capsys) -> None:
    path, rng = tmp_path / "drawing.geojson.gz", random.Random(4)
    good = gzip.compress(
        json.dumps({"type": "FeatureCollection", "features": [_feature(str(i)) for i in range(40)]}).encode()
    )
    for i in range(40):
        path.write_bytes(damaged(good, rng))
        annotated(section, path, f"gzip {i}")
    table = tmp_path / "counts.tsv.gz"
    good = gzip.compress(("\t" + "\t".join(f"g{i}" for i in range(30)) + "\n" + "1x1" + "\t3" * 30 + "\n").encode())
    for i in range(40):
        table.write_bytes(damaged(good, rng))
        check(lambda: stc.io.read(table), table, f"gzipped table {i}")
    check_command(table, capsys, "gzipped table")
    path.write_bytes(b"\x1f\x8b" + bytes(50))
    section.write_h5ad(tmp_path / "in.h5ad")
    check_command(tmp_path / "in.h5ad", capsys, "gzip", "--annotation", str(path))


# ------------------------------------------------------------------------------------------------- tables


def _tables(names: list[str], rng: random.Random) -> Iterator[bytes]:
    """Tables of barcode and label that went wrong."""
    lines = ["barcode,label", *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names))]
    text = "\n".join(lines)
    yield from (b"", b"\n\n", b"\x00" * 99, b"barcode", b"barcode,label", b",\n,\n", b"\xff\xfe\x00", b'"', b'a,"b\nc')
    yield from (text.encode(e) for e in ("utf-16", "utf-16-le", "utf-8-sig", "utf-32"))
    yield text.replace(",b", ",µ").encode("latin-1")
    yield text.replace(",b", "," + "x" * 200_000).encode()
    yield text.replace(",b", ',"b').encode()
    yield text.replace(",b", ",\x00b").encode()
    yield text.replace("\n", "\r").encode()
    yield (text + "\n" + names[0] + ",other").encode()
    for _ in range(40):
        yield damaged(text.encode(), rng)


def test_tables_of_labels(section, tmp_path) -> None:
    for name in ("labels.csv", "labels.txt"):
        path = tmp_path / name
        for i, data in enumerate(_tables(list(section.obs_names), random.Random(5))):
            path.write_bytes(data)
            annotated(section, path, f"{name} {i}: {data[:80]!r}")


def test_napari_shapes(section, tmp_path) -> None:
    path, rng = tmp_path / "shapes.csv", random.Random(6)
    rows = [
        ["0", "polygon", str(i), str(y), str(x)] for i, (y, x) in enumerate(((-5, -5), (-5, 60), (60, 60), (60, -5)))
    ]
    header = ["index", "shape-type", "vertex-index", "axis-0", "axis-1"]
    odd = (
        "",
        "nan",
        "inf",
        "1e999",
        "9" * 400,
        "x",
        "ellipse",
        "rectangle",
        "path",
        "-1",
        "\x00",
        '"',
        "µ",
        "x" * 140_000,
    )
    for i in range(80):
        table = [list(header), *(list(row) for row in rows)]
        for _ in range(rng.choice((1, 1, 2))):
            row = rng.randrange(len(table) if i % 4 == 0 else 5)
            row = max(row, 0 if i % 4 == 0 else 1)
            table[row][rng.randrange(5)] = rng.choice(odd)
        if i % 5 == 0:
            del table[rng.randrange(1, len(table))]
        if i % 7 == 0:
            del table[-1][-1]
        text = "\n".join(",".join(row) for row in table)
        path.write_text(text, encoding="utf-8")
        annotated(section, path, f"{i}: {text[:200]}", kind="napari")


def test_count_tables(tmp_path, capsys) -> None:
    path, rng = tmp_path / "counts.tsv", random.Random(7)
    genes = "\t".join(f"g{i}" for i in range(12))
    lines = [f"\t{genes}", *(f"{x}x{y}" + "\t2" * 12 for x in range(4) for y in range(4))]
    good = "\n".join(lines).encode()
    odd = ("", "nan", "inf", "1e999", "9" * 400, "x", "-1", "0.5", "\x00", '"', "µ", "1,5", "x" * 140_000)
    for i in range(60):
        data = damaged(good, rng)
        if i % 2:
            cells = [line.split("\t") for line in good.decode().split("\n")]
            cells[rng.randrange(len(cells))][rng.randrange(13)] = rng.choice(odd)
            data = "\n".join("\t".join(row) for row in cells).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
        path.write_bytes(data)
        check(lambda: stc.io.read(path), path, f"{i}: {data[:120]!r}")
        check(lambda: stc.io.read(path, kind=rng.choice(("st", "h5ad"))), path, f"{i} as a kind: {data[:120]!r}")
        if i % 12 == 0:
            check_command(path, capsys, f"table {i}")


# ------------------------------------------------------------------------------------------------- models


def test_damaged_models(section, tmp_path) -> None:
    path, rng = tmp_path / "m.stc", random.Random(8)
    stc.SpotVAE(section, n_latent=2, n_hidden=3).fit(max_epochs=0, progress=False).save(path)
    good = path.read_bytes()
    size = int.from_bytes(good[:8], "little") + 8
    for i in range(120):
        # as often in the header as in the weights, which are longer
        data = damaged(good[:size], rng) + good[size:] if i % 2 else damaged(good, rng)
        path.write_bytes(data)
        if data != good:
            assert check(lambda: stc.SpotVAE.load(path, device="cpu"), path, f"model {i}")
    for data in (
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
    ):
        path.write_bytes(data)
        assert check(lambda: stc.SpotVAE.load(path, device="cpu"), path, repr(data[:20]))
