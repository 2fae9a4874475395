from __future__ import annotations

import dataclasses

import pytest

from st_concepts.attribution import METHODS, Options, get_method, methods_table


def test_unknown_name_lists_all_and_suggests():
    with pytest.raises(ValueError, match="Did you mean 'integrated_gradients'") as error:
        get_method("Integrated-Gradient")
    assert all(name in str(error.value) for name in METHODS)
    with pytest.raises(ValueError, match="Available") as error:
        get_method("zzz")
    assert "Did you mean" not in str(error.value)


def test_records_are_frozen_and_read_existing_options():
    with pytest.raises(dataclasses.FrozenInstanceError):
        METHODS["gradient"].name = "other"
    fields = {f.name for f in dataclasses.fields(Options)}
    used = {name for m in METHODS.values() for name in m.options}
    assert used == fields
    assert get_method(METHODS["occlusion"]) is METHODS["occlusion"]


def test_named_captum_classes_exist():
    from captum import attr

    assert all(hasattr(attr, m.captum) for m in METHODS.values() if m.captum)


def test_tables_hold_every_method():
    assert list(methods_table().index) == list(METHODS)
    assert methods_table().notna().all(None)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_steps": 1}, "n_steps"),
        ({"quadrature": "simpson"}, "Unknown quadrature"),
        ({"n_samples": 0}, "n_samples"),
        ({"noise_sd": -1.0}, "noise_sd"),
        ({"noise_sd": float("nan")}, "noise_sd"),
        ({"q": 101}, "percentile"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        Options(**option)
