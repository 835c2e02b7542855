"""The built book on paper and on a wall: one PDF of all pages, and one deck of slides with the figures of each chapter.

    python book/printing.py pdf       # _build/einsum-networks.pdf; needs Chromium, playwright and pypdf
    python book/printing.py slides    # _build/slides.html; needs beautifulsoup4

Both read _build/html, which `make pages` writes, in the order of _toc.yml.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import re
import shutil
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build/html"
NUMBERS = """<style>@page { size: A4; margin: 0 } body { margin: 0; font: 9pt sans-serif; color: #666 }
div { height: 297mm; position: relative; break-after: page }
p { position: absolute; bottom: 1mm; width: 100%; text-align: center }
</style>"""
DECK = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Einsum Networks: the figures</title><style>
html { scroll-snap-type: y mandatory; font: 20px/1.4 system-ui, sans-serif; color: #222; background: #fff }
body { margin: 0 }
section { height: 100vh; box-sizing: border-box; padding: 3vh 6vw; scroll-snap-align: start; display: flex;
  flex-direction: column; align-items: center; justify-content: center; gap: 2vh }
section img { min-height: 0; flex: 0 1 auto; width: 80vw; height: 72vh; object-fit: contain }
section p { margin: 0; max-width: 60em; font-size: .8em } section small { align-self: flex-start; color: #666 }
@media print { section { break-after: page; height: 167mm } section img { height: 115mm } }
@page { size: 297mm 167mm; margin: 0 }
</style><body>%s<script>
const slides = [...document.querySelectorAll("section")];
addEventListener("keydown", event => {
  const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (!step) return;
  const here = Math.round(scrollY / innerHeight);
  slides[Math.min(Math.max(here + step, 0), slides.length - 1)].scrollIntoView();
  event.preventDefault();
});
</script>
"""


def pages() -> list[Path]:
    """The built pages, in the order of the table of contents. `ValueError` where one is not built."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [HTML / f"{name}.html" for name in [toc["root"], *_named(toc["parts"])]]
    if missing := [file.stem for file in files if not file.is_file()]:
        raise ValueError(f"{', '.join(missing)} is not in {HTML}: run `make pages` first")
    return files


def _named(entries: list[dict]) -> Iterator[str]:
    for entry in entries:
        if "file" in entry:
            yield entry["file"]
        yield from _named(entry.get("chapters", entry.get("sections", [])))


# On paper


def print_pdf(target: Path, files: list[Path] | None = None) -> None:
    """Print pages, solutions opened, into one PDF with an outline, page numbers, and links between its pages."""
    from playwright.sync_api import sync_playwright

    files = pages() if files is None else files
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.set_default_timeout(240_000)
        printed = [_printed(tab, file) for file in files]
        write_pdf(target, printed, files, lambda count: _numbers(tab, count))
        browser.close()


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise ValueError("no Chromium to print with: apt-get install chromium")


def _printed(tab, file: Path) -> tuple[str, bytes]:
    tab.goto(file.as_uri(), wait_until="networkidle")
    tab.evaluate("document.documentElement.dataset.theme = 'light'")
    tab.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    tab.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
    tab.evaluate("window.MathJax?.startup?.promise")
    tab.wait_for_load_state("networkidle")
    return tab.title().partition(" — ")[0], tab.pdf(prefer_css_page_size=True, print_background=True)


def _numbers(tab, count: int) -> bytes:
    """Pages that have nothing but their numbers, to lay over those of the book."""
    tab.set_content(NUMBERS + "".join(f"<div><p>{number}</p></div>" for number in range(1, count + 1)))
    return tab.pdf(prefer_css_page_size=True)


def write_pdf(target: Path, printed: list[tuple[str, bytes]], files: list[Path], numbers) -> None:
    """Join PDFs, each with its title."""
    from pypdf import PdfReader, PdfWriter
    from pypdf.annotations import Link

    writer, starts = PdfWriter(), {}
    for file, (title, content) in zip(files, printed, strict=True):
        starts[file.resolve()] = len(writer.pages)
        writer.append(PdfReader(io.BytesIO(content)), import_outline=False)
        writer.add_outline_item(title=title, page_number=starts[file.resolve()])
    overlay = PdfReader(io.BytesIO(numbers(len(writer.pages))))
    for place, page in enumerate(writer.pages):
        page.merge_page(overlay.pages[place])
        links = [entry.get_object() for entry in page.pop("/Annots", ())]
        for link in links:
            uri = str(link.get("/A", {}).get("/URI", ""))
            if not uri.startswith("file:"):
                kept = Link(rect=link["/Rect"], url=uri) if uri else None
            else:  # to another page of the book, or to what is not in it
                start = starts.get(Path(unquote(urlsplit(uri).path)).resolve())
                kept = None if start is None else Link(rect=link["/Rect"], target_page_index=start)
            if kept:
                writer.add_annotation(place, kept)
    writer.add_metadata({"/Title": "Einsum Networks"})
    writer.write(target)


# On a wall


def deck(files: list[Path] | None = None) -> str:
    """One page of HTML: a slide for each figure, with what its caption says first. Pictures lie in it."""
    slides = []
    for file in pages() if files is None else files:
        title, figures = figures_of(file)
        if figures:
            slides.append(f"<section><h1>{escape(title)}</h1></section>")
        for picture, alt, caption in figures:
            image = f'<img src="{picture}" alt="{escape(alt)}">'
            slides.append(f"<section><small>{escape(title)}</small>{image}<p>{escape(caption)}</p></section>")
    return DECK % "\n".join(slides)


def figures_of(file: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """The title of a page, and of each figure the picture, what it shows, and a line about it."""
    from bs4 import BeautifulSoup

    article = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser").find("article")
    found, heading = [], ""
    for element in article.find_all(["h1", "h2", "h3", "img"]):
        if element.name != "img":
            heading = element.get_text().rstrip("#").strip()
            continue
        source = element["src"]
        picture = source if source.startswith("data:") else _inside(file.parent / unquote(urlsplit(source).path))
        around = element.find_parent("figure")
        text = around.find(class_="caption-text") if around else None
        words = re.sub(r"\\\((.*?)\\\)", r"\1", " ".join(text.get_text().split())) if text else heading
        found.append((picture, element.get("alt", ""), first_sentence(words)))
    return article.find("h1").get_text().rstrip("#").strip(), found


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?!:]) (?=[A-Z])", text, maxsplit=1)[0]


def _inside(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


if __name__ == "__main__":
    if sys.argv[1:] == ["pdf"]:
        made = ROOT / "_build/einsum-networks.pdf"
        print_pdf(made)
    elif sys.argv[1:] == ["slides"]:
        made = ROOT / "_build/slides.html"
        made.write_text(deck(), encoding="utf-8")
    else:
        sys.exit("usage: python book/printing.py pdf | slides")
    print(made.relative_to(ROOT))
