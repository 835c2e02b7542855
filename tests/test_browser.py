"""Every built page in Chromium, from a server on this machine and from the disk: nothing is fetched from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
import torch
from inpainter import Inpainter
from pages import served

import einet

HTML = Path(__file__).parents[1] / "_build/html"
PAGES = sorted(f for f in HTML.rglob("*.html") if "_static" not in f.parts)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda f: str(f.relative_to(HTML)))

if not PAGES:
    pytest.skip("no built book: run `make book` first", allow_module_level=True)


class Links(HTMLParser):
    """The anchors that a page has, and the places it points to."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links = {""}, []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.links += [attrs[k] for k in ("href", "src") if attrs.get(k) and tag != "base"]


@every_page
def test_links_lead_somewhere(page):
    for link in Links(page).links:
        url, anchor = urldefrag(urljoin(page.as_uri(), link))
        if not url.startswith("file:"):
            assert re.match(r"https?:|mailto:|data:", url), link
            continue
        target = Path(unquote(url.removeprefix("file://").partition("?")[0]))
        assert target.exists(), f"broken link {link}"
        if target.suffix == ".html":
            assert unquote(anchor) in Links(target).anchors, f"broken anchor {link}"


@pytest.fixture(scope="module")
def server():
    with served(HTML) as address:
        yield address


@pytest.mark.parametrize("scheme", ["http", "file"])
@every_page
def test_page(browser, server, page, scheme):
    origin = (server if scheme == "http" else HTML.as_uri()) + "/"
    troubles = []

    def guard(route):
        if route.request.url.startswith((origin, "data:", "blob:")):
            route.continue_()
        else:
            troubles.append(f"a request elsewhere: {route.request.url}")
            route.abort()

    context = browser.new_context(viewport={"width": 400, "height": 800})
    tab = context.new_page()
    tab.route("**/*", guard)
    tab.on("console", lambda m: troubles.append(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda e: troubles.append(f"error: {e}"))
    tab.on("response", lambda r: troubles.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    tab.goto(origin + str(page.relative_to(HTML)))
    tab.wait_for_load_state("networkidle")
    tab.evaluate("window.MathJax?.startup?.promise")  # all formulas are set

    count = "selector => document.querySelectorAll(selector).length"
    if tab.evaluate(count, ".math:not(:has(mjx-container)), mjx-merror, mjx-container [data-mjx-error]"):
        troubles.append("a formula that is not rendered, or in error")
    prose = tab.evaluate("document.body.innerText")
    if re.search(r"\\[(\[]|\\(?:begin|frac|sum|log)\b", prose):
        troubles.append("raw TeX on the page")
    if tab.evaluate("[...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth).length"):
        troubles.append("an image that does not load")
    if tab.evaluate(count, "article img:not([alt]), article img[alt='']"):
        troubles.append("an image without alt text")
    if tab.evaluate("[...document.querySelectorAll('article section')].filter(s => s.children.length < 2).length"):
        troubles.append("a heading without content")
    if (width := tab.evaluate("document.documentElement.scrollWidth")) > 400:
        troubles.append(f"a screen of 400 px has to scroll sideways to {width} px")
    context.close()
    assert not troubles, "\n".join(troubles)


@pytest.mark.parametrize("height,width,delta,rows_only", [(28, 28, 7, False), (9, 14, 4, False), (32, 20, 8, True)])
def test_sizes_of_rectangles(browser, height, width, delta, rows_only):
    """The sizes that chapter 5 computes in JavaScript are those of einet's graphs and models."""
    tab = browser.new_page()
    tab.goto((HTML / "book/05_structures.html").as_uri())
    for name, value in {"height": height, "width": width, "delta": delta, "K": 3}.items():
        tab.fill(f".structures-figure input[name={name}]", str(value))
    tab.check(f".structures-figure input[value={'rows' if rows_only else 'both'}]")
    shown = tab.evaluate("({...document.querySelector('.structures-figure').dataset})")
    tab.close()

    graph = einet.poon_domingos((height, width), delta, axes=[0] if rows_only else None)
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=3)
    numbers = len(graph.regions), len(graph.leaves), len(graph.partitions), sum(p.numel() for p in model.parameters())
    assert tuple(int(shown[name]) for name in ("regions", "leaves", "partitions", "parameters")) == numbers


WITH_INPAINTER = [page for page in PAGES if 'class="einet-inpaint"' in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("page", WITH_INPAINTER, ids=lambda f: f.stem)
def test_inpainter(browser, server, page, scheme):
    """Paint in the built page: what is covered is filled, what is visible stays, drawing again draws again."""
    origin = (server if scheme == "http" else HTML.as_uri()) + "/"
    with browser.new_context(viewport={"width": 1000, "height": 900}) as context:
        inpainter = Inpainter(context, origin + str(page.relative_to(HTML)), 28).ready()
        inpainter.press("clear")
        image = inpainter.pixels()
        assert not inpainter.hidden().any()
        inpainter.after(inpainter.stroke, (6, 8), (20, 20))
        assert inpainter.hidden()[13, 14] and not inpainter.hidden()[:, 25:].any()
        inpainter.assert_visible_stays(image)
        first = inpainter.pixels()
        inpainter.press("↻ draw again")
        assert not torch.equal(first, inpainter.pixels())
        inpainter.assert_visible_stays(image)
        inpainter.close()
