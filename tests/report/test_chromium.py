"""The report in headless Chromium: loads without error or request, switches overlays, sorts, prints; names are text."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import st_concepts as stc
from st_concepts import report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
pytest.importorskip("plotly", reason="the extra [report] is not installed")
pytest.importorskip("itables", reason="the extra [report] is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip("no Chromium with chromedriver: apt-get install chromium chromium-driver", allow_module_level=True)

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1400",
)
GENE, LAYER, SPOT = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "</title><b>&amp;"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a section whose names are markup."""
    adata = stc.datasets.simulated_bulb(n_obs=300, n_vars=200, n_markers=10, n_smooth=20, seed=0)
    strongest = np.asarray(adata[adata.obs["layer"] == "GCL"].X.mean(0) - adata.X.mean(0)).ravel().argmax()
    adata.var_names = [GENE if i == strongest else name for i, name in enumerate(adata.var_names)]
    for i, name in ((-1, "=1+1"), (-2, 'a "quoted"\r\nname'), (-3, "-x")):
        adata.var_names = [name if j == i % adata.n_vars else old for j, old in enumerate(adata.var_names)]
    adata.obs["layer"] = adata.obs["layer"].cat.rename_categories({"GCL": LAYER, "MCL": "L2/3"})
    adata.obs_names = [*adata.obs_names[:-2], "@spot", SPOT]
    section = adata.obs["section"].iloc[0]
    adata.uns["spatial"] = {
        section: {
            "images": {"hires": np.full((200, 200, 3), 220, dtype=np.uint8)},
            "scalefactors": {
                "tissue_hires_scalef": 190 / float(adata.obsm["spatial"].max()),
                "spot_diameter_fullres": 0.6,
            },
        }
    }
    model = stc.SpotVAE(adata, n_latent=5, seed=0).fit(max_epochs=0, progress=False)
    stc.tl.concepts(adata, model, groupby="layer")
    stc.tl.saliency(adata, model)
    stc.tl.rank_genes_concepts(adata, n_null=0)
    doubt = np.linspace(0, 1, adata.n_obs).astype(np.float32)
    adata.obs["concept_disagreement"] = doubt
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(adata, path, model=model, stability=False)
    return path


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(page: Path, downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        driver.get("about:blank")
        driver.get_log("performance")  # what the browser's own first page loads is not ours
        driver.get(page.as_uri())
        wait(lambda: driver.execute_script("return document.body.dataset.tables") == "ready", "the tables")
        wait(lambda: driver.execute_script("return document.body.dataset.drawn") == "ready", "the drawings")
        yield driver
    finally:
        driver.quit()


def wait(ready: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < end, f"{what}: not there after {seconds:.0f} s"
        time.sleep(0.05)
    return value


def choose(browser: Any, name: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", name)).select_by_visible_text(text)


def drawn(browser: Any) -> dict[str, Any]:
    """What the tissue shows: the overlay, the number of spots, colours and hover texts."""
    return browser.execute_script(
        "const d = document.getElementById('tissue').data;"
        "return {overlay: document.body.dataset.overlay, n: d.reduce((n, t) => n + t.x.length, 0),"
        " colors: d.flatMap((t) => t.marker.color), text: d.flatMap((t) => t.text)};"
    )


def column(browser: Any, title: str) -> list[str]:
    headers = [h.text.strip() for h in browser.find_elements("css selector", "#markers thead th")]
    k = headers.index(title) + 1
    return [c.text for c in browser.find_elements("css selector", f"#markers tbody td:nth-child({k})")]


def test_loads_without_error_or_request(browser: Any) -> None:
    # the log is emptied by reading it, so errors and requests are looked at in one test
    errors = [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    asked = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert sum(url.startswith("file:") for url in asked) == 1


def download(browser: Any, downloads: Path, name: str) -> list[dict[str, str]]:
    """Rows of the CSV that the button of a table gives."""
    for old in downloads.iterdir():
        old.unlink()
    browser.execute_script(f"document.querySelector('#{name}_wrapper button.csv').click()")
    file = wait(lambda: next(iter(downloads.glob("*.csv")), None), "the download")
    return list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8"), newline="")))


def test_concept_and_gene_are_switched(browser: Any) -> None:
    assert drawn(browser)["overlay"] == "layers||layer"
    assert drawn(browser)["n"] == 300
    choose(browser, "kind", "concept score")
    choose(browser, "concept", "ONL")
    first = drawn(browser)
    assert first["overlay"].startswith("score|ONL|")
    choose(browser, "concept", "L2/3")
    second = drawn(browser)
    assert second["overlay"].startswith("score|L2/3")
    assert first["colors"] != second["colors"]
    choose(browser, "kind", "expression of a gene")
    genes = [o.text for o in browser.find_elements("css selector", "#gene option")]
    assert len(genes) > 20
    choose(browser, "gene", genes[1])
    assert drawn(browser)["overlay"].endswith(f"|{genes[1]}")
    choose(browser, "kind", "saliency of a gene")
    third = drawn(browser)
    assert third["overlay"].startswith("saliency|L2/3|")
    assert any(v < 0 for v in third["colors"])
    assert all(re.search(r": -?[\d.]+(e-?\d+)?$", text) for text in third["text"])


def test_hover_gives_the_value(browser: Any) -> None:
    from selenium.webdriver import ActionChains

    choose(browser, "kind", "concept score")
    browser.execute_script("window.scrollTo(0, 0)")
    wait(lambda: browser.execute_script("return window.scrollY") == 0, "the top of the page")
    points = browser.find_elements("css selector", "#tissue .scatterlayer .point")
    assert len(points) == 300
    where = browser.find_element("css selector", "#tissue .nsewdrag")
    box, at = where.rect, points[150].rect
    x = at["x"] + at["width"] / 2 - box["x"] - box["width"] / 2
    y = at["y"] + at["height"] / 2 - box["y"] - box["height"] / 2
    ActionChains(browser).move_to_element_with_offset(where, round(x), round(y)).perform()
    label = wait(
        lambda: browser.execute_script("return document.querySelector('#tissue .hovertext')?.textContent"), "hover"
    )
    assert "Score of" in label


def test_tables_sort_search_and_download(browser: Any, downloads: Path) -> None:
    from selenium.webdriver import Keys

    assert browser.find_element("id", "table-concept").get_attribute("value") == "all"
    assert set(column(browser, "Layer")[:5]) == {"ONL", "GL", "OPL", "L2/3", LAYER}  # the best of every layer first
    assert column(browser, "Rank")[:6] == ["1"] * 5 + ["2"]
    header = next(h for h in browser.find_elements("css selector", "#markers thead th") if h.text.strip() == "p")
    header.click()
    values = [float(v) for v in column(browser, "p")]
    assert values == sorted(values)
    header.click()
    wait(lambda: [float(v) for v in column(browser, "p")] != values, "the other order")
    turned = [float(v) for v in column(browser, "p")]
    assert turned == sorted(turned, reverse=True)
    assert turned[0] > values[-1]
    choose(browser, "table-concept", "ONL")
    assert set(column(browser, "Layer")) == {"ONL"}
    box = browser.find_element("css selector", "#markers_wrapper input[type=search]")
    box.send_keys("marker1")
    wait(lambda: all("marker1" in g for g in column(browser, "Gene")), "the search")
    rows = download(browser, downloads, "markers")
    assert {r["Layer"] for r in rows} == {"ONL"}
    assert all("marker1" in r["Gene"] for r in rows)
    float(rows[0]["FDR"])
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.BACKSPACE)
    assert browser.find_elements("css selector", "#doubtful tbody tr")


def test_downloads_hold_every_gene_and_true_names(browser: Any, downloads: Path) -> None:
    choose(browser, "table-concept", "all")
    rows = download(browser, downloads, "markers")
    assert len(rows) == 5 * 200
    assert {r["Layer"] for r in rows} == {"ONL", "GL", "OPL", "L2/3", LAYER}
    genes = {r["Gene"] for r in rows}
    assert {GENE, "'=1+1", 'a "quoted"\r\nname', "'-x"} <= genes
    assert not {g for g in genes if g[0] in "=+-@\t\r"}
    assert min(float(r["Effect"]) for r in rows) < 0  # numbers are numbers, negative ones too
    assert not any(r["Effect"].startswith("'") for r in rows)
    doubtful = download(browser, downloads, "doubtful")
    assert {SPOT, "'@spot"} <= {r["Spot"] for r in doubtful}


def test_search_finds_the_last_gene(browser: Any, downloads: Path) -> None:
    from selenium.webdriver import Keys

    choose(browser, "table-concept", "ONL")
    last = download(browser, downloads, "markers")[-1]["Gene"]
    box = browser.find_element("css selector", "#markers_wrapper input[type=search]")
    box.send_keys(last)
    wait(lambda: column(browser, "Gene")[-1:] == [last], "the search")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("no such gene")
    wait(lambda: "No such gene" in browser.find_element("css selector", "#markers tbody").text, "the empty search")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.BACKSPACE)


def test_a_click_on_a_gene_draws_it(browser: Any) -> None:
    choose(browser, "table-concept", "GL")
    next(h for h in browser.find_elements("css selector", "#markers thead th") if h.text.strip() == "Rank").click()
    wait(lambda: column(browser, "Rank")[0] == "1", "the best gene on top")
    cell = browser.find_element("css selector", "#markers tbody td.gene")
    browser.execute_script("arguments[0].click()", cell)
    assert drawn(browser)["overlay"] == f"expression||{cell.text}"
    assert any(text.startswith("sim_1") and cell.text in text for text in drawn(browser)["text"])


def test_names_are_text(browser: Any) -> None:
    from selenium.webdriver import Keys

    choose(browser, "table-concept", LAYER)
    box = browser.find_element("css selector", "#markers_wrapper input[type=search]")
    box.send_keys("alert")  # wherever earlier clicks have sorted it to
    wait(lambda: column(browser, "Gene") == [GENE], "the search")
    assert set(column(browser, "Layer")) == {LAYER}
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.BACKSPACE)
    choose(browser, "kind", "expression of a gene")
    choose(browser, "concept", LAYER)
    choose(browser, "gene", GENE)
    assert browser.find_element("css selector", "#tissue .gtitle").text == f"Expression of {GENE}"
    choose(browser, "kind", "layers")
    legend = [t.text for t in browser.find_elements("css selector", "#tissue .legendtext")]
    assert LAYER in legend
    assert browser.find_elements("css selector", "img:not(.still img), b, #tissue script") == []
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#histograms .annotation-text')].map((t) => t.textContent)"
    )
    assert any(LAYER in t for t in titles)
    # an open alert would have made every command above fail; none was ever asked for
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_screenshot_and_print(browser: Any, tmp_path: Path) -> None:
    from PIL import Image

    browser.execute_script("window.scrollTo(0, 0)")
    browser.save_screenshot(str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as image:
        assert image.width >= 1240
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 200  # not a blank page
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    pdf = base64.b64decode(
        browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})["data"]
    )
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 2 <= pages <= 8
