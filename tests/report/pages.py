"""A section with results, and its page as a browser takes it apart."""

from __future__ import annotations

import base64
import gzip
import html.parser
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import st_concepts as stc
from st_concepts import report


def analysed(adata: AnnData, n_null: int = 999) -> stc.SpotVAE:
    model = stc.SpotVAE(adata, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer", n_null=n_null)
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, n_null=0, null="moran" if adata.n_obs < 1000 else "none")
    return model


class Page(html.parser.HTMLParser):
    """Elements of a page, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])


def page_of(adata: AnnData, path: Path, **kwargs: Any) -> Page:
    report.write(adata, path, **({"stability": False} | kwargs))  # two more fits a report take their time
    return Page(path.read_text(encoding="utf-8"))


def inflate(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def table_of(page: Page) -> pd.DataFrame:
    """The marker table, as the page unpacks it."""
    packed = page.data["markers"]
    values = [
        v if isinstance(v, list) else [v["words"][c] for c in v["codes"]] for v in json.loads(inflate(packed["values"]))
    ]
    return pd.DataFrame(dict(zip([c["name"] for c in packed["columns"]], values, strict=True)))


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """As the page does it."""
    bits = packed["bits"]
    steps = np.frombuffer(base64.b64decode(packed["b64"]), dtype=f"<u{bits // 8}").astype(float)
    values = packed["low"] + (packed["high"] - packed["low"]) * steps / (2**bits - 2)
    return np.where(steps == 2**bits - 1, np.nan, values)
