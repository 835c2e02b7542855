"""The book as one PDF and as one deck of slides."""

import base64
import io

import pytest
from bs4 import BeautifulSoup
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link

from book import printing

BUILT = [
    file for file in sorted((printing.HTML / "book").glob("*.html")) if "<article" in file.read_text(encoding="utf-8")
]
# On a sheet of A4 less its margins: what is wider than the sheet or its own box, what is closed, and what fades.
TROUBLES = """() => [...document.querySelectorAll(".bd-article *")].filter(box => {
    if (box.closest("svg, mjx-container, script, style") || box.matches("span.math")) return false;
    if (!box.checkVisibility()) return false;
    const style = getComputedStyle(box), edges = box.getBoundingClientRect();
    const cut = style.overflowX != "visible" && box.clientWidth && box.scrollWidth > box.clientWidth + 2;
    const closed = box.matches("details:not([open])") || style.maskImage != "none";
    return edges.width > 2 && (cut || closed || edges.right > innerWidth + 1.5);
}).map(box => `${box.tagName}.${box.className}: ${box.textContent.trim().slice(0, 40)}`)"""
PAGE = """<article><h1>2 Layers#</h1><h2>A pass#</h2>
<figure><img src="../dot.svg" alt="a dot">
<figcaption><span class="caption-text">Dots of \\(K\\). And more.</span></figcaption></figure>
<img src="data:image/png;base64,AAAA" alt="a plot"></article>"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "dot.svg").write_text("<svg/>", encoding="utf-8")
    file = tmp_path / "book/02.html"
    file.write_text(PAGE, encoding="utf-8")
    return file


def test_figures_of_a_page(page):
    svg = "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()
    assert printing.figures_of(page) == (
        "2 Layers",
        [(svg, "a dot", "Dots of K."), ("data:image/png;base64,AAAA", "a plot", "A pass")],
    )


def test_a_slide_a_figure(page):
    slides = BeautifulSoup(printing.deck([page]), "html.parser").find_all("section")
    assert [slide.find("p").text if slide.find("p") else slide.text for slide in slides] == [
        "2 Layers",
        "Dots of K.",
        "A pass",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not BUILT, reason="no built book: run `make book` first")
def test_nothing_is_cut_or_closed_on_paper(browser):
    tab, troubles = browser.new_page(viewport={"width": 688, "height": 1000}), {}
    tab.emulate_media(media="print")
    for file in BUILT:
        tab.goto(file.as_uri())
        tab.evaluate("window.MathJax?.startup?.promise")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        troubles[file.stem] = tab.evaluate(TROUBLES)
    tab.close()
    assert not any(troubles.values()), troubles


def blank(count, link=None):
    writer, made = PdfWriter(), io.BytesIO()
    for _ in range(count):
        writer.add_blank_page(100, 100)
    if link:
        writer.add_annotation(0, Link(rect=(0, 0, 9, 9), url=link))
    writer.write(made)
    return made.getvalue()


def test_pages_are_joined_and_links_stay_in_the_book(tmp_path):
    files = [tmp_path / "a.html", tmp_path / "b.html"]
    printed = [("A", blank(2, link=files[1].as_uri() + "#x")), ("B", blank(1, link="https://x.org/"))]
    printing.write_pdf(tmp_path / "book.pdf", printed, files, blank)
    pdf = PdfReader(tmp_path / "book.pdf")
    assert [(item.title, pdf.get_destination_page_number(item)) for item in pdf.outline] == [("A", 0), ("B", 2)]
    first, last = (pdf.pages[place]["/Annots"][0].get_object() for place in (0, 2))
    assert pdf.get_page_number(first["/Dest"][0].get_object()) == 2 and last["/A"]["/URI"] == "https://x.org/"
    assert str(tmp_path).encode() not in (tmp_path / "book.pdf").read_bytes()


def test_every_page_of_the_contents_is_named_once():
    entries = [{"chapters": [{"file": "a"}, {"file": "b", "sections": [{"file": "b/c"}]}]}]
    assert [*printing._named(entries)] == ["a", "b", "b/c"]
