"""Every built page in Chromium, from a server on this machine and from the disk: nothing is fetched from elsewhere."""

import base64
import hashlib
import html
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from inpainter import PHONE, WithoutAKernel, assert_legible, ground_of, luminance, nats_in, opened
from pages import served
from project import ROOT
from sklearn.datasets import load_breast_cancer, load_digits

import einet
from book.figures import edges_of_tree
from einet.inpaint.pages import page_name

HTML, BOOK = (ROOT / name for name in ("_build/html", "book"))
# The pages, without those of viewcode, which have no more than the source of a module.
PAGES = sorted(f for f in HTML.rglob("*.html") if not {"_static", "_modules"} & {*f.parts})

# What scrolls sideways without the fade of scroll.js: the first words of each.
CUT = """[...document.querySelectorAll("article *")]
    .filter(box => box.scrollWidth > box.clientWidth + 2 && box.clientWidth && box.dataset.more != "right")
    .filter(box => ["auto", "scroll"].includes(getComputedStyle(box).overflowX) && !box.closest("mjx-container"))
    .map(box => `${box.tagName}.${box.className}: ${box.textContent.trim().slice(0, 40)}`)"""

# Words of the interactive figures: text, its ink, and all grounds below it up to the first that nothing shows through.
WORDS = """() => {
    const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const known = {};
    const drawn = colour => {
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        return [...pixel.getImageData(0, 0, 1, 1).data];
    };
    const channels = colour => known[colour] ??= drawn(colour);
    const grounds = [], walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const box = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
        if (!words || !box.closest(".einet-figure") || box.closest("svg, option") || !box.checkVisibility()) continue;
        if (box.disabled) continue;
        const below = [];
        for (let at = box; at && below.at(-1)?.[3] != 255; at = at.parentElement) {
            below.push(channels(getComputedStyle(at).backgroundColor));
        }
        grounds.push([words, channels(getComputedStyle(box).color), below]);
    }
    return grounds;
}"""

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


links_of = cache(Links)  # each page is pointed to from many others


@every_page
def test_links_lead_somewhere(page):
    for link in links_of(page).links:
        url, anchor = urldefrag(urljoin(page.as_uri(), link))
        if not url.startswith("file:"):
            assert re.match(r"https?:|mailto:|data:", url), link
            continue
        target = Path(unquote(url.removeprefix("file://").partition("?")[0]))
        assert target.exists(), f"broken link {link}"
        if target.suffix == ".html":
            assert unquote(anchor) in links_of(target).anchors, f"broken anchor {link}"


@pytest.fixture(scope="module")
def server():
    with served(HTML) as address:
        yield address


@pytest.mark.parametrize("scheme, size", [("http", (400, 800)), ("file", (1280, 720))], ids=["http", "file"])
@every_page
def test_page(browser, server, page, scheme, size):
    """From a server on the screen of a phone, and from the disk on a wide one, where its files are weighed, too."""
    origin = (server if scheme == "http" else HTML.as_uri()) + "/"
    troubles, loaded = [], set()

    def guard(route):
        if route.request.url.startswith((origin, "data:", "blob:")):
            route.continue_()
        else:
            troubles.append(f"a request elsewhere: {route.request.url}")
            route.abort()

    context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)))
    tab = context.new_page()
    tab.route("**/*", guard)
    tab.on("request", lambda request: loaded.add(urldefrag(request.url)[0].partition("?")[0]))
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
    if tab.evaluate(count, ".tag_solution:not(details.sd-dropdown *)"):
        troubles.append("the code of a solution, outside the fold of its text")
    if cut := tab.evaluate(CUT):
        troubles.append(f"cut on the right, and nothing says so: {cut}")
    if (width := tab.evaluate("document.documentElement.scrollWidth")) > size[0]:
        troubles.append(f"a screen of {size[0]} px has to scroll sideways to {width} px")
    context.close()
    if scheme == "file":
        troubles += weight(page, [Path(unquote(url.removeprefix("file://"))) for url in loaded if url[:5] == "file:"])
    assert not troubles, "\n".join(troubles)


def over(ground, layer):
    """The colour of a layer on a ground, which shows through it."""
    return [below + (above - below) * layer[3] / 255 for below, above in zip(ground, layer[:3], strict=True)]


def test_interactive_figures_are_legible(browser):
    """In both themes, the contrast of their words with what lies below them is at least 4."""
    tab, found = browser.new_page(), []
    for page in (page for page in PAGES if re.search("-figure['\"]", page.read_text(encoding="utf-8"))):
        tab.goto(page.as_uri(), wait_until="domcontentloaded")
        tab.wait_for_selector(".einet-figure")
        for theme in ("light", "dark"):
            tab.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
            tab.wait_for_timeout(400)  # colours fade from one to the other
            for words, ink, layers in tab.evaluate(WORDS):
                ground = [255, 255, 255]
                for layer in reversed(layers):
                    ground = over(ground, layer)
                dark, light = sorted(luminance(colour) + 0.05 for colour in (over(ground, ink), ground))
                found.append((light / dark, page.stem, theme, words, ink, ground))
    tab.close()
    assert len(found) > 400 and not [told for told in found if told[0] < 4], sorted(found)[:10]


def weight(page, files):
    """All files that a page loads: at most 2.2 MB, with an inpainter and its model 4.5, with any other model 5."""
    assert page in files
    sizes = {file.name: file.stat().st_size / 1e6 for file in files}
    models = [file for file in files if file.parent.name == "inpaint" and file.stat().st_size > 1e6]
    limit = 4.5 if str(page.relative_to(HTML)) in INPAINTERS else 5 if models else 2.2
    if sum(sizes.values()) > limit:
        yield f"more than {limit} MB: {sorted(sizes.items(), key=lambda item: -item[1])[:6]}"


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


def test_two_columns_know_of_each_other_what_einet_says(browser):
    """Chapter 5: counts of the rows, information and tree as by einet; by mouse and by keys, from the disk."""
    cancer = load_breast_cancer()
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(load_digits().data > 7.5)[torch.randperm(1797, generator=generator)]
    torch.randperm(64, generator=generator)
    table = torch.tensor(cancer.data)[torch.randperm(569, generator=generator)][:400]
    table = table.view(400, 3, 10).transpose(1, 2).flatten(1)
    quarters = (table[:, None] > table.quantile(torch.tensor([0.25, 0.5, 0.75]).double(), 0)).sum(1)
    tab = browser.new_page()
    tab.goto((HTML / "book/05_structures.html").as_uri())
    figure = tab.locator(".information-figure")
    sets = (images[:1297].int(), [(58, 27), (8, 63), (19, 2)]), (quarters, [(0, 29), (9, 0)])
    for number, (x, pairs) in enumerate(sets):
        figure.get_by_role("combobox").select_option(str(number))
        known, tree = einet.pairwise_information(x), edges_of_tree(einet.chow_liu(x))
        for u, v in [max(tree, key=lambda edge: known[edge]), *pairs]:
            for variable in (u, v) if (u, v) in pairs else ():
                figure.locator(f"[data-variable='{variable}']").click()
            shown = figure.evaluate("root => ({...root.dataset})")
            assert shown["pair"] == f"{u}-{v}"
            assert float(shown["information"]) == pytest.approx(known[u, v].item(), abs=1e-9)
            assert (shown["steps"] == "1") == ((min(u, v), max(u, v)) in tree)
            assert float(shown["weakest"]) >= known[u, v] - 1e-9
            levels = int(x.max()) + 1
            counts = [[((x[:, u] == a) & (x[:, v] == b)).sum().item() for b in range(levels)] for a in range(levels)]
            cells = figure.locator("tbody td").evaluate_all("cells => cells.map(c => Number(c.firstChild.textContent))")
            assert cells == sum(counts, [])
    figure.locator("[data-variable='0']").press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert figure.get_attribute("data-pair") == "0-4"
    assert figure.get_by_role("button", pressed=True).count() == 2
    tab.close()


def test_a_region_is_drawn_anew(browser):
    """Chapter 12: pixels of the region that was pressed change, and no others; the page is read from the disk."""
    tab = browser.new_page()
    tab.goto((HTML / "book/12_images.html").as_uri())
    figure = tab.locator(".regions-figure")
    figure.get_by_role("checkbox").uncheck()
    pixels = """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""
    before = np.reshape(figure.locator("canvas").evaluate(pixels), (32, 32, 4))
    assert len(np.unique(before)) > 20, "nothing is drawn"
    figure.get_by_role("button", name="draw rows 9 to 24 anew").press("Enter")
    after = np.reshape(figure.locator("canvas").evaluate(pixels), (32, 32, 4))
    kept = float(figure.evaluate("root => root.dataset.logDensity"))
    tab.close()
    changed = (before != after).any((1, 2))
    assert changed.tolist() == [8 <= row < 24 for row in range(32)]
    assert 500 < kept < 3000  # nats, of half an image


def test_odd_rows_are_sorted_and_say_what_was_expected(browser):
    """Chapter 9: by the oddest cell and by the file; a line tells of its cells by a key; errors are shown."""
    tab = browser.new_page()
    tab.goto((HTML / "book/09_tables.html").as_uri())
    figure = tab.locator(".surprise-figure")
    data = json.loads(tab.locator("#surprise-data").text_content())
    odd = {row["line"]: max(nats for nats in row["nats"] if nats is not None) for row in data["rows"]}

    def shown():
        return [int(line) for line in figure.locator("tbody th").all_text_contents()]

    assert [odd[line] for line in shown()] == sorted(odd.values(), reverse=True)
    figure.get_by_role("combobox").select_option("as in the file")
    assert shown() == sorted(odd)
    row = data["rows"][0]
    column = row["nats"].index(odd[row["line"]])
    figure.get_by_role("button", name=str(row["line"]), exact=True).press("Enter")
    said = figure.locator("output").text_content()
    assert (
        f"{data['columns'][column]} is {row['cells'][column]}; from the rest of its row, {row['expected'][column]}"
        in said
    )
    assert figure.locator(".bar").count() == sum(nats is not None for nats in row["nats"])
    assert figure.get_by_role("button", pressed=True).count() == 1 and figure.locator(".wrong").count() == 0
    figure.get_by_role("checkbox").check()
    assert figure.locator(".wrong").count() == sum("wrong" in row for row in data["rows"]) > 0
    tab.close()


def heights(pages):
    """The names of pages with an inpainter, and the height of its images, which are square."""
    start = re.compile(r'class="einet-inpaint" data-page="{&quot;height&quot;: (\d+)')
    found = {f: start.search(f.read_text(encoding="utf-8")) for f in pages}
    return {str(f.relative_to(HTML)): int(match[1]) for f, match in found.items() if match}


INPAINTERS = heights(PAGES)


def shown_by(name):
    """What the inpainter of a page knows."""
    return json.loads(html.unescape(re.search(r'data-page="([^"]*)"', (HTML / name).read_text(encoding="utf-8"))[1]))


@pytest.fixture(scope="class", params=["http", "file"])
def origin(request, server):
    return server if request.param == "http" else HTML.as_uri()


@pytest.mark.parametrize("name", INPAINTERS, scope="class")
class TestInpainter(WithoutAKernel):
    """Paint in the built pages: the model answers without a kernel. A page is loaded once for all but the touch."""

    @pytest.fixture(scope="class")
    @classmethod
    def page(cls, browser, origin, name):
        screen = {"width": 1000, "height": 900}
        with opened(browser, f"{origin}/{name}", INPAINTERS[name], viewport=screen) as inpainter:
            yield inpainter

    def test_every_image_has_the_log_density_that_python_says(self, page, name):
        """To 0.1 nats, of the very pixels of the chapter: (byte + 0.5) / 256, of the sheet."""
        shown = shown_by(name)
        sheet = torch.tensor(plt.imread(BOOK / "_static/13_clothes.png")).view(10, 28, 20, 28)[:, :, 0]
        images = torch.tensor(np.stack([np.frombuffer(base64.b64decode(i), shown["dtype"]) for i in shown["images"]]))
        assert torch.equal(images.view(10, 28, 28), (255 * sheet + 0.5) / 256)
        (file,) = (BOOK / "models").glob(f"{shown['file'].rsplit('-', 1)[0]}.safetensors")
        assert page_name(file) == shown["file"]
        model, (row, column) = einet.load(file), torch.meshgrid(*2 * [torch.arange(28)], indexing="ij")
        for mask, seen in {"lower half": row < 14, "every other pixel": (row + column) % 2 == 1}.items():
            page.press(mask)
            for label, wanted in zip(shown["labels"], model(images.view(10, 28, 28), seen).tolist(), strict=True):
                page.press(label)
                assert nats_in(page.tab.inner_text(".numbers")) == pytest.approx(wanted, abs=0.1), (mask, label)

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_legible_in_both_themes(self, page, theme):
        page.tab.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        page.tab.wait_for_timeout(500)
        page.tab.locator(".einet-inpaint").scroll_into_view_if_needed()
        ground = ground_of(page.tab)
        assert (sum(ground) < 384) == (theme == "dark")
        assert_legible(page.tab, ground)

    @pytest.fixture
    def phone(self, browser, origin, name):
        with opened(browser, f"{origin}/{name}", INPAINTERS[name], **PHONE) as inpainter:
            yield inpainter


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_the_verdict_of_the_race_is_seen_without_scrolling_sideways(browser, width):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto((HTML / "book/11_efficiency.html").as_uri(), wait_until="networkidle")
    words = tab.locator("article strong", has_text="an epoch of einet takes")
    tables = tab.locator("article table.verdict:visible")
    assert words.count() == 1 and tables.count() == 2
    for each in (words, *tables.all()):
        box = each.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= width
        assert each.evaluate("e => e.scrollWidth <= e.clientWidth + 1 || !e.clientWidth"), "cut off"
    tab.close()


def test_the_intro_and_chapter_13_share_a_model():
    """It is in the book once, and not in the pages."""
    pages = ["book/intro.html", "book/13_inpainting.html"]
    assert set(pages) <= set(INPAINTERS)
    models = [f.relative_to(HTML).as_posix() for f in HTML.rglob("fashion-mnist*")]
    digest = hashlib.sha256((BOOK / "models/fashion-mnist.safetensors").read_bytes()).hexdigest()
    assert models == [f"_static/inpaint/fashion-mnist-{digest}.js"]
    assert all((HTML / page).stat().st_size < (HTML / models[0]).stat().st_size / 4 for page in pages)
