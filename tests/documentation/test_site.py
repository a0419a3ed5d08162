"""The site of the documentation: no reference of it leads nowhere, its search finds all, and it fits a phone."""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.report.browser import needs_chromium, show, start

ROOT = Path(__file__).parents[2]
DOCS = ROOT / ".ci" / "docs"
for package in ("furo", "myst_parser", "sphinx"):
    pytest.importorskip(package, reason="needs the extra docs")
PAGES = [
    "index.html",
    "CONTRIBUTING.html",
    "examples/coming_from/equinox_optax.html",
    "examples/guide/calling.html",
    "examples/24_optimizers_as_values.html",
    "funcnet/layers/TRANSFORMS.html",
    "funcnet/layers/WRONG_KERNELS.html",
    "reference/checkpoint.html",
    "reference/layers/transformer_layers.html",
    "reference/transforms.html",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, which is built once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(shared / "site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "site" / "index.html").exists():
            command = [sys.executable, DOCS / "build.py", shared / "site"]
            result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            assert result.returncode == 0, result.stderr
    return shared / "site"


@pytest.fixture(scope="module")
def address(site):
    """Where a server on this machine has the site."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def driver():
    pytest.importorskip("selenium", reason="needs selenium")
    driver = start()
    driver.implicitly_wait(10)
    yield driver
    driver.quit()


def search(driver, address, words):
    """The titles that the search finds, and where they lead, best first."""
    driver.get(f"{address}/search.html?q={words}")
    driver.find_element("css selector", "#search-results h2")
    driver.find_element("css selector", "ul.search li a")
    script = "return [...document.querySelectorAll('ul.search li > a')].map((a) => [a.textContent, a.href])"
    return [
        (title, href.removeprefix(f"{address}/").partition("?")[0]) for title, href in driver.execute_script(script)
    ]


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("name", "room"),
    [("value_and_grad", "transforms"), ("Split", "checkpoint"), ("train_flags", "adapters"), ("AdamW", "optim")],
)
def test_the_search_finds_a_name_first(driver, address, name, room):
    title, href = search(driver, address, name)[0]
    assert title.endswith(f".{name}")
    assert href.startswith(f"reference/{room}.html")
    driver.get(f"{address}/{href}")
    text = driver.execute_script("return document.getElementById(location.hash.slice(1)).textContent")
    assert text.strip().removeprefix("class ").startswith(name)


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("functional_call", "examples/guide/modules.html"),
        ("stack_module_state", "examples/coming_from/functional_call.html"),
        ("innerloop_ctx", "examples/coming_from/torchopt_higher_learn2learn.html"),
        ("optax", "examples/coming_from/equinox_optax.html"),
        ("transform_with_state", "examples/coming_from/haiku.html"),
        ("LoRA", "examples/28_lora.html"),
        ("antialias", "funcnet/layers/WRONG_KERNELS.html"),
        ("AdaptiveAvgPool1d ensemble", "funcnet/layers/TRANSFORMS.html"),
        ("PurityError", "examples/guide/promises.html"),
    ],
)
def test_one_search_finds_the_course_the_guide_and_the_tables(driver, address, words, page):
    assert page in {href.partition("#")[0] for _, href in search(driver, address, words)}


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_phone_and_asks_nothing_of_a_network(driver, site, page):
    for kind in ("performance", "browser"):
        driver.get_log(kind)
    show(driver, site / page, 390)
    assert driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert requests
    assert all(url.startswith(("file:", "data:")) for url in requests)


@pytest.fixture
def docstrings(monkeypatch):
    """The module that looks up what docstrings refer to."""
    monkeypatch.syspath_prepend(str(DOCS))
    import docstrings

    return docstrings


@pytest.mark.parametrize(
    ("role", "module", "cls", "path"),
    [
        ("convert", "funcnet.checkpoint", None, "funcnet.checkpoint.convert"),
        ("init", "funcnet", "Linear", "funcnet.Net.init"),
        ("torch.nn.Linear", "funcnet", None, "torch.nn.Linear"),
        ("funcnet.random", "funcnet", None, "funcnet.random"),
        ("Linearr", "funcnet", None, None),
        ("torch.nn.Linearr", "funcnet", None, None),
        ("funcnet.trees", "funcnet", None, None),
    ],
)
def test_a_role_leads_to_what_it_names_or_nowhere(docstrings, role, module, cls, path):
    assert docstrings.find(role, module, cls) == path


def test_every_public_name_is_on_one_page(docstrings):
    import pages

    entries = [
        line.partition(":: ")[2]
        for text in pages.reference_pages().values()
        for line in text.splitlines()
        if line.startswith((".. auto", ".. py:data")) and "automodule" not in line
    ]
    assert len(entries) == len(set(entries))
    assert set(entries) == {*pages.names.public_names()}
