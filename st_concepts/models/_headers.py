"""The headers of model files and checkpoints, checked against a schema and the tensors before anything is built.

A header can be written by anyone: its digest finds damage and is no signature. So nothing in it is taken for granted:
types, ranges, names and sizes are checked, and no size is believed that the tensors of the file do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from st_concepts.models import _schema as s
from st_concepts.models._image.conv import ConvConfig, ConvDecoder, ConvEncoder
from st_concepts.models._image.gene_recipe import RECIPES

Tensors = Mapping[str, torch.Tensor]
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]

_SIZE = s.integer(1, 2**31 - 1)
_SEED = s.integer(0, 2**63 - 1)
_FINGERPRINT = s.text(r"[0-9a-f]{16}", "sixteen hexadecimal digits")
_MOST_TOTAL = 1e15  # of a spot: more than all the molecules that any instrument counts
RASTER_KINDS = ("square", "hexagonal", "irregular")


def _row(*measured: str) -> s.Check:
    """One epoch of a history: its number and what was measured."""

    def check(value: Any, field: str) -> None:
        s.many(lambda *_: None, least=1 + len(measured), most=1 + len(measured))(value, field)
        s.integer(0, 2**31)(value[0], f"{field}[0]")
        for i, _ in enumerate(measured, start=1):
            s.measured(value[i], f"{field}[{i}]")

    return check


def _history(*measured: str) -> s.Check:
    rows = s.many(_row(*measured))

    def check(value: Any, field: str) -> None:
        rows(value, field)
        if [row[0] for row in value] != list(range(len(value))):
            raise s.FieldError(f"{field} must number its epochs 0, 1, 2, ...")

    return check


SPOT = s.record(
    {
        "config": s.record(
            {
                "layer": s.optional(s.text()),
                "batch_key": s.optional(s.text()),
                "n_latent": _SIZE,
                "n_hidden": _SIZE,
                "n_layers": _SIZE,
                "init": s.one_of(("svd", "random")),
                "seed": _SEED,
                "sections": s.many(s.text(), unique=True),
                "target_sum": s.number(0, _MOST_TOTAL, above=True),
            }
        ),
        "var_names": s.many(s.text(), least=1, unique=True),
        "history": _history("train_loss", "validation_nll"),
        "fingerprint": _FINGERPRINT,
    }
)
_CONV = s.record(
    {
        "shape": s.many(_SIZE, least=3, most=3),
        "n_latent": _SIZE,
        "channels": s.many(_SIZE, least=1),
        "kernels": s.many(s.integer(2, 2**15), least=1),
        "hidden": s.many(_SIZE),
    }
)
_IMAGE_HISTORY = _history("train_loss", "validation_loss", "kl")
IMAGE = s.record(
    {
        "config": s.record({"seed": _SEED}),
        "conv": _CONV,
        "names": s.many(s.text(), most=0),
        "history": _IMAGE_HISTORY,
        "fingerprint": _FINGERPRINT,
    }
)
GENE = s.record(
    {
        "config": s.record({"layer": s.optional(s.text()), "recipe": s.one_of(RECIPES), "seed": _SEED}),
        "conv": _CONV,
        "names": s.many(s.text(), least=1, unique=True),
        "history": _IMAGE_HISTORY,
        "fingerprint": _FINGERPRINT,
        "raster": s.record(
            {
                "shape": s.many(_SIZE, least=2, most=2),
                "pixel": s.many(s.integer(0, 2**62), least=1),
                "pixel_size": s.many(s.number(0, above=True), least=2, most=2),
                "origin": s.many(s.number(), least=2, most=2),
                "kind": s.one_of(RASTER_KINDS),
                "coarsened": s.number(0, above=True),
            }
        ),
    }
)
_WORD = s.integer(0, 2**128 - 1)
_FIT = s.record(
    {
        "identity": lambda value, field: None if isinstance(value, dict) else _refuse(field, value),
        "history": s.many(_row("train_loss", "validation_nll"), least=1),
        "best": s.measured,
        "best_epoch": s.integer(0, 2**31),
        "step": s.integer(0, 2**31),
        "rng": s.record(
            {
                "bit_generator": s.one_of(("PCG64",)),
                "state": s.record({"state": _WORD, "inc": _WORD}),
                "has_uint32": s.integer(0, 1),
                "uinteger": s.integer(0, 2**32 - 1),
            }
        ),
    }
)


def _refuse(field: str, value: Any) -> None:
    raise s.wrong(field, "a dictionary", value)


def check_spot(path: str, state: Tensors, header: dict[str, Any]) -> None:
    """Raise `ValueError` with the path and the field where a `SpotVAE` cannot be built of this."""

    def check() -> None:
        SPOT(header, "")
        c = header["config"]
        if (c["batch_key"] is None) != (not c["sections"]):
            raise s.FieldError("config.batch_key and config.sections must be given together")
        _bounded(state, **{f"config.{k}": c[k] for k in ("n_latent", "n_hidden", "n_layers")})
        sizes = {k: c[k] for k in ("n_latent", "n_hidden", "n_layers")}
        _same(state, spot_layout(len(header["var_names"]), n_sections=max(len(c["sections"]), 1), **sizes))

    _say_where(path, check)


def check_image(path: str, state: Tensors, header: dict[str, Any], *, genes: bool) -> None:
    """Raise `ValueError` with the path and the field where an `ImageVAE` or a `GeneVAE` cannot be built of this."""

    def check() -> None:
        (GENE if genes else IMAGE)(header, "")
        c = header["conv"]
        if len(c["kernels"]) != len(c["channels"]):
            raise s.FieldError("conv.channels and conv.kernels must be equally many")
        sizes = {f"conv.{k}[{i}]": v for k in ("shape", "channels", "kernels", "hidden") for i, v in enumerate(c[k])}
        many = {f"the length of conv.{k}": len(c[k]) for k in ("channels", "hidden")}
        _bounded(state, **sizes, **many, **{"conv.n_latent": c["n_latent"]})
        _same(state, conv_layout(ConvConfig.from_dict(c)))
        if genes:
            _check_raster(header["raster"], c["shape"], len(header["names"]))

    _say_where(path, check)


def _check_raster(raster: dict[str, Any], shape: list[int], n_spots: int) -> None:
    height, width = raster["shape"]
    if [1, height, width] != shape:
        raise s.FieldError(f"raster.shape must be that of conv.shape, {shape[1:]}, not {[height, width]}")
    if len(raster["pixel"]) != n_spots:
        raise s.FieldError(f"raster.pixel must have an entry for each of {n_spots} spots, not {len(raster['pixel'])}")
    if max(raster["pixel"]) >= height * width:
        raise s.FieldError(f"raster.pixel must be below {height * width}, not {max(raster['pixel'])}")


def check_fit(path: str, state: Tensors, header: dict[str, Any], expected: Tensors) -> None:
    """Raise `ValueError` with the path and the field where a fit cannot go on from this.

    ``expected`` are the tensors of the fit that is to go on; the moments of the optimizer may be missing in either.
    """

    def check() -> None:
        _FIT(header, "")
        if header["best_epoch"] >= len(header["history"]):
            raise s.FieldError(f"best_epoch must be an epoch of the history, not {header['best_epoch']}")
        layout: Layout = {k: (tuple(v.shape), v.dtype) for k, v in expected.items() if not k.startswith("optimizer.")}
        moments = {k: v for k, v in state.items() if k.startswith("optimizer.")}
        _same({k: v for k, v in state.items() if k not in moments}, layout)
        if moments:
            _same(moments, {k: (tuple(v.shape), v.dtype) for k, v in expected.items() if k.startswith("optimizer.")})

    _say_where(path, check)


def spot_layout(n_vars: int, *, n_latent: int, n_hidden: int, n_layers: int, n_sections: int) -> Layout:
    """Names, shapes and types of the weights of a `SpotModule`, without making one."""
    k, h, first = n_latent, n_hidden, n_latent + n_hidden
    shapes: dict[str, tuple[int, ...]] = {
        "encoder_weight": (n_vars, first),
        "bias": (n_sections, first),
        "decoder_weight": (first, n_vars),
        "decoder_bias": (n_vars,),
        "log_rate": (n_sections, n_vars),
        "log_theta": (n_vars,),
        "rest.out.weight": (k, h),
        "rest.out.bias": (k,),
        "rest.log_var.weight": (k, h),
        "rest.log_var.bias": (k,),
    }
    for i in range(n_layers):
        shapes |= {f"decoder_hidden.{2 * i}.weight": (h, k if i == 0 else h), f"decoder_hidden.{2 * i}.bias": (h,)}
    for i in range(1, n_layers):
        shapes |= {f"rest.hidden.{2 * i - 1}.weight": (h, h), f"rest.hidden.{2 * i - 1}.bias": (h,)}
    return {name: (shape, torch.float32) for name, shape in shapes.items()}


def conv_layout(config: ConvConfig) -> Layout:
    """Names, shapes and types of the weights of a `ConvVAE`; nothing is allocated."""
    try:
        with torch.device("meta"):
            parts = torch.nn.ModuleDict({"encoder": ConvEncoder(config), "decoder": ConvDecoder(config)})
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise s.FieldError(f"conv does not describe a network ({' '.join(str(error).split())[:120]})") from error
    return {name: (tuple(v.shape), v.dtype) for name, v in parts.state_dict().items()}


def _bounded(state: Tensors, **sizes: int) -> None:
    """No size above what the tensors hold: a header must not make us allocate or count what is not there."""
    most = max([len(state), *(v.numel() for v in state.values())], default=0)
    for field, value in sizes.items():
        if value > (len(state) if field.endswith("n_layers") or field.startswith("the length") else most):
            raise s.FieldError(f"{field} is {s.shown(value)}, more than the tensors of the file have")


def _same(state: Tensors, layout: Layout) -> None:
    """The tensors are those of the layout, and numbers."""
    for name in layout:
        if name not in state:
            raise s.FieldError(f"the tensor {name} is missing; the header describes one")
    for name, value in state.items():
        if name not in layout:
            raise s.FieldError(f"the tensor {s.shown(name)} is none that the header describes")
        shape, dtype = layout[name]
        if tuple(value.shape) != shape:
            raise s.FieldError(f"the tensor {name} has shape {tuple(value.shape)}; by the header it is {shape}")
        if value.dtype != dtype:
            raise s.FieldError(f"the tensor {name} has type {value.dtype}; it must be {dtype}")
        if value.dtype.is_floating_point and not bool(torch.isfinite(value).all()):
            raise s.FieldError(f"the tensor {name} holds NaN or infinite values")


def _say_where(path: str, check: Callable[[], None]) -> None:
    try:
        check()
    except s.FieldError as error:
        raise ValueError(
            f"{path!r} does not hold what it must: {error}. The file was changed or is damaged; save the model again."
        ) from error
