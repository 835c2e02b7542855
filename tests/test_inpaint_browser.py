"""The inpainter in Chromium: on a page, from a server and from the disk, and in JupyterLab with a live kernel."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch
from inpainter import PHONE, Inpainter, WithoutAKernel, opened
from pages import served

import einet
from einet.inpaint import InpaintWidget, export, write_page_files

SIZE = 8
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Inpainter</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="inpaint.css"><script src="inpaint.js" defer></script>
<body>{}</body></html>"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Images, and a model of them in a file; its folder also has the page, a broken one and one of another model."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("inpaint")
    images = torch.tensor(load_digits().images).float()
    graph = einet.poon_domingos((SIZE, SIZE), [4, 2], axes=[0])
    arguments = {"num_sums": 5, "epochs": 3, "batch_size": 50, "pseudocount": 0.05, "progress": False}
    mixture = einet.fit_mixture(images[100:700], 3, graph, einet.Binomial(16), **arguments)
    export(mixture, folder / "digits.safetensors")
    html = InpaintWidget(folder / "digits.safetensors", images[:4], ["zero", "one", "two", "three"]).as_html()
    write_page_files(folder, [folder / "digits.safetensors"])
    for name in ("index", "broken"):
        (folder / f"{name}.html").write_text(PAGE.format(html.replace("digits", name) if name == "broken" else html))
    (folder / "missing.html").write_text(PAGE.format(html.replace("digits", "missing")))
    script = (folder / "digits.js").read_text()
    (folder / "broken.js").write_text(script.replace('"digits"', '"broken"').replace("AAAA", "////"))
    return folder


@pytest.fixture(scope="module")
def server(digits):
    with served(digits) as address:
        yield address


@pytest.fixture(params=["http", "file"])
def page(request, browser, digits, server):
    origin = server if request.param == "http" else digits.as_uri()
    with opened(browser, f"{origin}/index.html", SIZE, viewport={"width": 900, "height": 900}) as inpainter:
        yield inpainter


class TestOnAPage(WithoutAKernel):
    @pytest.fixture
    def phone(self, browser, server):
        with opened(browser, f"{server}/index.html", SIZE, **PHONE) as inpainter:
            yield inpainter


def test_views_are_what_python_says(page, digits):
    """The engine in the browser and einet: mean, deviation, explanation and their numbers on the same mask."""
    from sklearn.datasets import load_digits

    widget = InpaintWidget(digits / "digits.safetensors", torch.tensor(load_digits().images[:4]).float())
    observed = torch.arange(SIZE)[:, None].expand(SIZE, SIZE) > 3
    page.after(page.tab.get_by_role("button", name="three").click)
    page.press("upper half")
    for view, name in (("mean", "mean"), ("explanation", "most probable")):
        page.press(name)
        filled, numbers = widget.fill(3, observed, view)
        grey = (filled[..., 0] / 16 * 255).round()
        assert (page.pixels()[..., 1] - grey).abs().max() <= 1
        text = page.tab.inner_text(".numbers").replace("−", "-")
        shown = [float(number) for number in re.findall(r"(-?[\d.]+)(?: nats|\.$)", text)]
        assert shown == pytest.approx(list(numbers.values()), abs=0.06)
    page.press("standard deviation")
    spread = widget.fill(3, observed, "deviation")[0][..., 0]
    top = float(re.search(r"lightest: ([\d.]+)", page.tab.inner_text(".scale"))[1])
    assert top == pytest.approx(spread.max().item(), rel=0.06)
    brightness = page.pixels().double().sum(2)
    order = torch.stack((spread.flatten(), brightness.flatten())).argsort(1)
    assert torch.equal(brightness.flatten()[order[0]], brightness.flatten().sort()[0]), "brighter where less sure"


@pytest.mark.parametrize("name", ["missing", "broken"])
def test_a_model_that_cannot_be_read_is_a_message(browser, digits, name):
    with browser.new_context() as context:
        page = Inpainter(context, f"{digits.as_uri()}/{name}.html", SIZE)
        message = page.tab.wait_for_selector(".einet-inpaint [role=alert]").inner_text()
        assert f"The model “{name}” could not be read: " in message
        page.tab.close()


def test_the_page_has_the_one_source(digits):
    """What pages run, and what JupyterLab runs, are the two modules, line by line, less how one imports the other."""
    for name in ("engine", "widget"):
        module = (Path(einet.__file__).parent / f"inpaint/{name}.js").read_text().splitlines()
        kept = [line for line in module if not line.startswith(("import ", "export "))]
        assert len(module) - len(kept) == (1 if name == "engine" else 3)
        assert "\n".join(kept) in (digits / "inpaint.js").read_text()
        assert "\n".join(kept) in InpaintWidget._esm


# JupyterLab


@pytest.fixture(scope="module")
def lab(digits, tmp_path_factory):
    """A server of JupyterLab over a notebook with the widget; nothing is asked of the network, or of the user."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cells = [
        "import torch; torch.set_num_threads(1)\nfrom sklearn.datasets import load_digits\n"
        "from einet.inpaint import InpaintWidget\nimages = torch.tensor(load_digits().images[:4]).float()\n"
        "widget = InpaintWidget('digits.safetensors', images)\nwidget",
        "import json; print(json.dumps([widget.image, (~widget.observed).tolist(), widget.filled.flatten().tolist()]))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, digits / "live.ipynb")
    home = tmp_path_factory.mktemp("jupyter")
    places = {f"JUPYTER_{name}_DIR": str(home) for name in ("CONFIG", "RUNTIME", "DATA")}
    (home / "labconfig").mkdir()  # else it asks whether to fetch news
    news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (home / "labconfig/page_config.json").write_text(json.dumps(news))
    options = [f"--ServerApp.root_dir={digits}", f"--port={port}", "--IdentityProvider.token=", "--allow-root",
               "--no-browser", "--ServerApp.port_retries=0", 
               f"--LabApp.workspaces_dir={home}", f"--LabApp.user_settings_dir={home}"]  # fmt: skip
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", *options], env=os.environ | places, stdout=log, stderr=log
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, home / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, log):
    for _ in range(600):
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab does not start: {log.read_text()}")


def run(cell):
    """Until the prompt says that it runs: before a kernel is there, JupyterLab may ignore the key."""
    prompt = cell.locator(".jp-InputPrompt")
    for _ in range(20):
        cell.locator(".cm-content").click()
        cell.page.keyboard.press("Control+Enter")
        cell.page.wait_for_timeout(1000)
        if prompt.inner_text().strip() != "[ ]:":
            return


def test_with_a_live_kernel(browser, lab):
    """Paint in JupyterLab: Python receives the mask, what it fills in comes back, and draw again draws again."""
    with browser.new_context(viewport={"width": 1200, "height": 1000}) as context:
        page = Inpainter(context, f"{lab}/doc/tree/live.ipynb", SIZE)
        tab = page.tab
        cells = tab.locator(".jp-Notebook .jp-CodeCell")
        cells.first.wait_for(timeout=120_000)
        tab.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=120_000)
        run(cells.first)
        page.ready()
        page.after(tab.get_by_role("button", name="image 2").click)
        page.press("clear")
        image = page.pixels()
        page.after(page.stroke, (2, 1), (5, 6))
        page.assert_visible_stays(image)
        page.press("↻ draw again")
        first = page.pixels()
        page.press("↻ draw again")
        assert not torch.equal(page.pixels(), first)
        page.assert_visible_stays(image)
        hidden, shown = page.hidden(), page.pixels()[..., 0]

        run(cells.nth(1))
        output = cells.nth(1).locator(".jp-OutputArea-output pre")
        output.wait_for(timeout=60_000)
        number, mask, filled = json.loads(output.inner_text())
        assert number == 1 and torch.equal(torch.tensor(mask), hidden)
        assert ((torch.tensor(filled) / 16 * 255).round() - shown.flatten()).abs().max() <= 1
        page.close()
