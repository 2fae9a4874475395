"""Headers that anyone could have written: the digest is right, and still nothing of it is believed."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import st_concepts as stc
from st_concepts.models import ImageVAE, _checkpoint, _headers
from st_concepts.models._spot.module import SpotModule

WRONG = [
    None, True, -1, 0, 2**40, 10**5000, 1.5, -1.0, float("nan"), float("inf"), 1e308, "x", "", "\ud800", [], {}, [[]],
    [None], {"a": 1}, ["x", "x"], [1, 2, 3], ["0"] * 50, -(2**70),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A saved model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=130, n_markers=4, n_smooth=2, seed=0)
    adata.obs["slide"] = ["a", "b"] * 30
    models = {
        "SpotVAE": stc.SpotVAE(adata, n_latent=3, n_hidden=4, n_layers=2, batch_key="slide"),
        "GeneVAE": stc.GeneVAE(adata, n_latent=2, channels=(2,), hidden=(4,)),
        "ImageVAE": ImageVAE((6, 5), n_latent=2, channels=(2,), hidden=(3,)),
    }
    models["SpotVAE"].fit(max_epochs=0, progress=False)
    models["GeneVAE"].fit(max_epochs=0, progress=False)
    models["ImageVAE"].fit(np.random.default_rng(0).random((8, 6, 5)).astype("f4"), max_epochs=1, progress=False)
    for kind, model in models.items():
        model.save(folder / f"{kind}.stc")
    return {kind: folder / f"{kind}.stc" for kind in models}


def load(kind: str, path: Path):
    return {"SpotVAE": stc.SpotVAE, "GeneVAE": stc.GeneVAE, "ImageVAE": ImageVAE}[kind].load(path, device="cpu")


def read(kind: str, path: Path) -> tuple[dict, dict]:
    return _checkpoint.read(path, kind)


def places(value, at=()) -> list[tuple]:
    """Every field of a header, the first entry of each list."""
    out = [at] if at else []
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, entry in inner:
        out += places(entry, (*at, key))
    return out


def changed(header: dict, at: tuple, value) -> dict:
    header = copy.deepcopy(header)
    inner = header
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return header


def refused(kind: str, path: Path, state, text: str) -> str:
    """The message of a file with this header, whose digest is right."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    _write(path, kind, state, text, digest)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (looked at below)
        load(kind, path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


def _write(path: Path, kind: str, state, text: str, digest: str) -> None:
    from safetensors.torch import save_file

    meta = {"format": _checkpoint.FORMAT, "version": "2", "kind": kind, "header": text, "sha256": digest}
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata=meta)


@pytest.mark.parametrize("kind", ["SpotVAE", "GeneVAE", "ImageVAE"])
def test_a_wrong_value_in_any_field_is_refused(kind, files) -> None:
    state, header = read(kind, files[kind])
    before = torch.get_rng_state()
    tried, accepted = 0, []
    for at in places(header):
        name = ".".join(str(key) for key in at if isinstance(key, str))
        for value in WRONG:
            other = changed(header, at, value)
            tried += 1
            try:
                with pytest.raises(ValueError, match=r"(?s)must|missing|unknown|twice|fingerprint|tensor") as caught:
                    _checked(kind, state, other)
                # an architecture of other sizes is seen by its tensors
                assert any(word in str(caught.value) for word in (name.split(".")[-1], "the tensor"))
            except pytest.fail.Exception:
                accepted.append((name, value))
    assert tried > 300 if kind == "SpotVAE" else tried > 100
    assert {(name, repr(value)) for name, value in accepted} <= HARMLESS
    assert torch.equal(torch.get_rng_state(), before)


def _checked(kind: str, state, header: dict) -> None:
    if kind == "SpotVAE":
        _headers.check_spot("m.stc", state, header)
    else:
        _headers.check_image("m.stc", state, header, genes=kind == "GeneVAE")


# other values that are as good as the true ones: nothing of the model follows from them, or a fingerprint finds them
HARMLESS = {
    *((f"config.{key}", value) for key in ("layer", "batch_key") for value in ("None", "'x'", "''")),
    *(("config.seed", value) for value in ("0", str(2**40))),
    *(("history", value) for value in ("[]", "0", "None")),
    *(("config.target_sum", value) for value in ("1.5", str(2**40))),
    *(("var_names", value) for value in ("'x'", "''")),
    *(("names", value) for value in ("'x'", "''", "[]")),
    *(("config.sections", value) for value in ("'x'", "''")),
    *(("raster.pixel", value) for value in ("0",)),
    *((f"raster.{key}", repr(value)) for key in ("pixel_size", "coarsened") for value in (2**40, 1.5, 1e308)),
    *(("raster.origin", repr(value)) for value in (-1, 0, 2**40, 1.5, -1.0, 1e308, -(2**70))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["SpotVAE", "GeneVAE", "ImageVAE"])
def test_missing_unknown_and_doubled(kind, files, tmp_path) -> None:
    state, header = read(kind, files[kind])
    path = tmp_path / "m.stc"
    for at in [at for at in places(header) if isinstance(at[-1], str)]:
        other = copy.deepcopy(header)
        inner = other
        for key in at[:-1]:
            inner = inner[key]
        del inner[at[-1]]
        with pytest.raises(ValueError, match=rf"{at[-1]} is missing"):
            _checked(kind, state, other)
    assert "'pickle' in the header is unknown" in refused(kind, path, state, json.dumps(header | {"pickle": 1}))
    if kind == "SpotVAE":
        twice = changed(header, ("var_names", 1), header["var_names"][0])
        assert "var_names holds" in refused(kind, path, state, json.dumps(twice))
        short = changed(header, ("var_names",), header["var_names"][:-1])
        assert "shape" in refused(kind, path, state, json.dumps(short))
        alone = changed(header, ("config", "sections"), [])
        assert "given together" in refused(kind, path, state, json.dumps(alone))


def test_headers_that_are_no_dictionary(files, tmp_path) -> None:
    state, header = read("SpotVAE", files["SpotVAE"])
    path = tmp_path / "m.stc"
    nested = "[" * 100_000 + "]" * 100_000
    for text in ("", "{", "[]", "1", "null", "NaN", '"x"', nested, '{"a":' * 50_000 + "1" + "}" * 50_000, "9" * 10_000):
        assert "header" in refused("SpotVAE", path, state, text)
    assert "target_sum" in refused("SpotVAE", path, state, json.dumps(changed(header, ("config", "target_sum"), -1.0)))


def test_tensors_that_the_header_does_not_describe(files, tmp_path) -> None:
    path = tmp_path / "m.stc"
    for kind, file in files.items():
        state, header = read(kind, file)
        text = json.dumps(header)
        name = next(k for k, v in state.items() if v.is_floating_point() and v.ndim == 2)
        value = state[name]
        nan = value.clone()
        nan[0, 0] = float("nan")
        for other, says in (
            ({k: v for k, v in state.items() if k != name}, "is missing"),
            (state | {"more": torch.zeros(3)}, "none that the header describes"),
            (state | {name: value.double()}, "type"),
            (state | {name: value.to(torch.bfloat16)}, "type"),
            (state | {name: value.T.contiguous()[:-1]}, "shape"),
            (state | {name: torch.zeros(())}, "shape"),
            (state | {name: nan}, "NaN"),
            ({}, "missing|more than"),
        ):
            assert any(word in refused(kind, path, other, text) for word in says.split("|"))


@pytest.mark.parametrize("kind", ["SpotVAE", "GeneVAE", "ImageVAE"])
def test_what_surrounds_the_header(kind, files, tmp_path) -> None:
    from safetensors.torch import save_file

    state, header = read(kind, files[kind])
    text = json.dumps(header)
    good = {"format": _checkpoint.FORMAT, "version": "2", "kind": kind, "header": text, "sha256": ""}
    path = tmp_path / "m.stc"
    for key, value in (
        ("version", ""), ("version", "x"), ("version", "-1"), ("version", "1e3"), ("version", "9" * 9999),
        ("version", "٣"),
        ("kind", ""), ("kind", "SpotVAE.fit"), ("kind", "a\nb"), ("kind", None), ("version", None), ("header", None),
    ):  # fmt: skip
        meta = {k: v for k, v in (good | {key: value}).items() if v is not None}
        save_file(state, path, metadata=meta)
        with pytest.raises(ValueError, match=r"m\.stc") as caught:
            load(kind, path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="folder"):
        load(kind, tmp_path)


def test_layouts_are_those_of_the_modules(files) -> None:
    for n_layers in (1, 2, 4):
        sizes = {"n_latent": 3, "n_hidden": 5, "n_layers": n_layers, "n_sections": 2}
        made = SpotModule(7, generator=torch.Generator().manual_seed(0), **sizes).state_dict()
        assert _headers.spot_layout(7, **sizes) == {k: (tuple(v.shape), v.dtype) for k, v in made.items()}
    for kind in ("GeneVAE", "ImageVAE"):
        model = load(kind, files[kind])
        made = model.module.state_dict()
        assert _headers.conv_layout(model._conv) == {k: (tuple(v.shape), v.dtype) for k, v in made.items()}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_json_in_any_place(data, files) -> None:
    kind = data.draw(st.sampled_from(sorted(files)))
    state, header = read(kind, files[kind])
    other = changed(header, data.draw(st.sampled_from(places(header))), data.draw(_JSON))
    message = ""
    try:
        _checked(kind, state, other)
    except ValueError as error:
        message = str(error)
    assert message == "" or ("m.stc" in message and "\n" not in message)


@pytest.mark.parametrize(
    "field", ["identity", "history", "best", "best_epoch", "step", "rng", "generator", "moments", "weights"]
)
def test_a_checkpoint_that_anyone_could_have_written(field, tmp_path) -> None:
    adata = stc.datasets.simulated_bulb(n_obs=60, n_vars=130, n_markers=4, n_smooth=2, seed=0)
    options = {"max_epochs": 1, "progress": False, "device": "cpu", "checkpoint": tmp_path / "fit"}
    stc.SpotVAE(adata, n_latent=3, n_hidden=4).fit(**options)
    path = tmp_path / "fit" / "checkpoint.stc"
    state, header = read("SpotVAE.fit", path)
    tampered = []
    if field == "generator":
        tampered = [
            (state | {"generator": state["generator"][:9].clone()}, header),
            (state | {"loss": torch.zeros(2)}, header),
        ]
    elif field == "moments":
        name = next(k for k in state if k.endswith("exp_avg"))
        tampered = [({k: v for k, v in state.items() if k != name}, header), (state | {name: torch.zeros(1)}, header)]
    elif field == "weights":
        tampered = [(state | {"best.log_theta": torch.full((130,), float("nan"))}, header), ({}, header)]
    else:
        wrong = ["x", [], {}, -1, [[]], {"bit_generator": "PCG64"}, {"bit_generator": "x", "state": {}}]
        tampered = [(state, header | {field: value}) for value in wrong if not (field == "best" and value == -1)]
        tampered += [(state, {k: v for k, v in header.items() if k != field})]
    for tensors, text in tampered:
        _checkpoint.write(path, "SpotVAE.fit", tensors, text)
        with pytest.raises(ValueError, match=r"damaged|another fit") as caught:
            stc.SpotVAE(adata, n_latent=3, n_hidden=4).fit(**options)
        assert "checkpoint.stc" in str(caught.value)
        assert "\n" not in str(caught.value)
