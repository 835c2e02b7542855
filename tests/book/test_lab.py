"""Chapters in JupyterLab, as in a fresh clone, whose notebooks nobody trusts: no MyST as text, pictures, folds."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from project import ROOT

pytestmark = pytest.mark.slow
CHAPTERS = ("01_circuits", "07_em", "08_queries", "13_inpainting")
PATIENCE = 240  # seconds, on a machine that does much else
# All cells are drawn at once, and nobody is asked whether to fetch news.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false"},
}
PROSE = """[...document.querySelectorAll(".jp-MarkdownCell .myst")].map(cell => {
    const copy = cell.cloneNode(true);
    copy.querySelectorAll("pre, code, mjx-container, .katex").forEach(part => part.remove());
    return copy.textContent;
}).join("\\n")"""
RAW = re.compile(r":::|\{[a-z][\w:-]*\}`|^\([\w-]{2,}\)=$", re.M)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with copies of the chapters, whose user has just installed it."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "book").mkdir()
    for name in CHAPTERS:
        shutil.copy(ROOT / f"book/{name}.ipynb", folder / "book")
    shutil.copytree(ROOT / "book/_static", folder / "book/_static", ignore=shutil.ignore_patterns("mathjax"))
    for name, value in SETTINGS.items():
        file = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTERLAB_SETTINGS_DIR": "settings",
           "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_RUNTIME_DIR": "runtime"}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with (folder / "log").open("w") as log:
        env = os.environ | {name: str(folder / place) for name, place in own.items()}
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            await_answer(f"http://127.0.0.1:{port}/api", server, folder / "log")
            yield f"http://127.0.0.1:{port}/doc/tree/book"
        finally:
            server.terminate()
            server.wait(PATIENCE)


def await_answer(address, server, log):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter(browser, lab, name):
    cells = json.loads((ROOT / f"book/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.set_default_timeout(PATIENCE * 1000)
    tab.route("**/*", lambda route: route.continue_() if "//127.0.0.1:" in route.request.url else route.abort())
    tab.goto(f"{lab}/{name}.ipynb")
    tab.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-Cell').length == {len(cells)}")
    text = sum(cell["cell_type"] == "markdown" for cell in cells)
    tab.wait_for_function(f"document.querySelectorAll('.jp-MarkdownCell.jp-mod-rendered .myst').length == {text}")
    prose = tab.evaluate(PROSE)
    assert len(prose) > 5000
    found = [prose[max(0, m.start() - 40) : m.end() + 40] for m in RAW.finditer(prose)]
    assert not found, found
    markdown = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    unfilled = sum(source.count('-figure">') for source in markdown)  # whose script is on the page alone
    assert tab.locator(".jp-MarkdownCell a:text-is('built book')").count() == unfilled
    folded = sum(bool({"hide-input", "hide-cell"} & {*cell["metadata"].get("tags", ())}) for cell in cells)
    assert tab.locator(".jp-CodeCell .jp-InputPlaceholder").count() == folded
    pictures = sum("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", ()))
    hidden = sum("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", ())
                 if "hide-cell" in cell["metadata"].get("tags", ()))  # fmt: skip
    assert pictures and tab.locator(".jp-RenderedImage img[src^='data:image/png']").count() >= pictures - hidden
    assert "<Figure size" not in tab.evaluate("document.querySelector('.jp-Notebook').innerText")
    tab.close()
