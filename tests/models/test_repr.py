"""What a model says of itself in a notebook agrees with its attributes, and is no markup of the data's making."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from anndata import AnnData

import st_concepts as stc
from st_concepts.models._repr import NotebookRepr, facts


class Shown(NotebookRepr):
    """Shows a model that lacks the mixin."""

    def __init__(self, model: object) -> None:
        self._shown = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._shown, name)


def test_facts_of_a_trained_model(simulated: AnnData) -> None:
    simulated.var_names = ["<b>&", *simulated.var_names[1:]]
    model = stc.SpotVAE(simulated, n_latent=4, batch_key="section", seed=7).fit(
        max_epochs=3, patience=9, progress=False
    )
    said = dict(facts(model))
    assert said["Genes"].startswith(f"{simulated.n_vars} (<b>&, ")
    assert said["Latent dimensions"] == "4"
    assert said["Sections"].startswith("1 (")
    assert said["Seed"] == "7"
    assert said["Fingerprint"] == model.fingerprint
    losses = model.history["validation_nll"]
    assert said["State"] == f"trained, 3 epochs, that of epoch {losses.idxmin()} kept"
    assert f"{losses.min():.2f}" in said["Held-out negative log likelihood per spot"]
    page = ET.fromstring(Shown(model)._repr_html_())  # well-formed, so nothing of the names was taken for markup
    assert "<b>&" in "".join(page.itertext())
    points = page.find("svg/polyline").get("points").split()
    assert len(points) == 4
    lowest = max(float(p.split(",")[1]) for p in points)  # rows of a picture count downwards
    assert float(page.find("svg/circle").get("cy")) == pytest.approx(lowest, abs=0.05)


def test_before_training_and_without_held_out_counts(simulated: AnnData) -> None:
    model = stc.SpotVAE(simulated, n_latent=4)
    assert dict(facts(model))["State"].startswith("not trained")
    assert "<svg" not in Shown(model)._repr_html_()
    model.fit(max_epochs=0, progress=False)
    assert dict(facts(model))["State"].startswith("trained, 0 epochs")


def test_a_model_of_genes(simulated: AnnData) -> None:
    some = simulated[:, np.argsort(-np.asarray(simulated.X.sum(0)).ravel())[:30]].copy()
    model = stc.GeneVAE(some, n_latent=3).fit(max_epochs=1, progress=False)
    said = dict(facts(model))
    assert said["Images"] == repr(model.raster)
    assert re.fullmatch(r"trained, 1 epochs.*", said["State"])
    assert "loss per image" in " ".join(said)
