"""Sphinx: pages in MyST Markdown, notebooks as they were executed, reference from docstrings. Builds offline."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import st_concepts
from st_concepts import __version__
from st_concepts.attribution import methods_table
from st_concepts.io import READERS

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import floor_plan  # noqa: E402 (lies in _ext)

project = "st_concepts"
author = "the st_concepts developers"
copyright = "the st_concepts developers"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
html_math_renderer = "mathml"  # MathJax would be fetched from elsewhere
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
root_doc = "index"
html_theme = "furo"
html_title = f"st_concepts {__version__}"

nb_execution_mode = "off"  # tutorials are shown as they were run; the test suite runs them
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"undoc-members": False}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def _methods_page() -> str:
    """The registry of attribution methods as a table."""
    table = methods_table()
    rows = []
    for name, row in table.iterrows():
        baseline, relu = ("yes" if row[column] else "" for column in ("needs_baseline", "needs_relu"))
        rows.append(f"| `{name}` | {row['question']} | {baseline} | {relu} | {row['citation']} |")
    head = ["| method | question | baseline | needs ReLU | source |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _kinds_page() -> str:
    """The registry of readers as a table."""
    rows = []
    for name, reader in READERS.items():
        options = ", ".join(f"`{option}=`" for option in reader.options)
        expects = reader.expects.replace("*", r"\*")
        rows.append(f"| `{name}` | {reader.what} | {expects} | {options} |")
    head = ["| kind | what | how it is recognised | options |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _generate() -> None:
    """What comes from the code and from notebooks/ is put beside the pages, anew for each build."""
    out = HERE / "_generated"
    shutil.rmtree(out, ignore_errors=True)
    (out / "notebooks").mkdir(parents=True)
    (out / "methods.md").write_text(_methods_page(), encoding="utf-8")
    (out / "kinds.md").write_text(_kinds_page(), encoding="utf-8")
    picture = floor_plan.svg(Path(st_concepts.__file__).parent)
    (out / "floors.svg").write_text(picture, encoding="utf-8")
    for path in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        # unfinished notebooks have no title, and nothing can link to them
        first = next(
            (c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"), None
        )
        if first is not None and "".join(first["source"]).startswith("# "):
            shutil.copy(path, out / "notebooks" / path.name)


_generate()
exclude_patterns += ["_generated/methods.md", "_generated/kinds.md"]


def _link_notebooks(app: Any, docname: str, source: list[str]) -> None:
    """Links to notebooks/ lead to the pages made of them here; one without a page keeps its text."""

    def there(match: re.Match[str]) -> str:
        return match[0].replace("../", "_generated/") if (HERE / "_generated" / match[2]).is_file() else match[1]

    source[0] = re.sub(r"\[([^\]]*)\]\(\.\./(notebooks/[^)]+\.ipynb)\)", there, source[0])


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _link_notebooks)
