"""Pages load what they use: a dozen of two thousand icons, and the index of words on the page that searches in it.

The theme has all icons of Fontawesome three times: in a script, `name:[width, height, [aliases], "f3d0", "path"]`; in
its style, as `.fa-name:before{content:"..."}`; and in a font, for signs that a style puts before a title. When pages
are written, what none of them asks for is taken out of the three. Needs fontTools, with brotli.

The index of words would be for the theme's search while one types, which is switched off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SCRIPT = "_static/scripts/fontawesome.js"
STYLE = "_static/styles/pydata-sphinx-theme.css"
FONTS = "_static/vendor/fontawesome/webfonts"
ENTRY = re.compile(
    r'(?<=[{,])(?:"(?P<quoted>[\w-]+)"|(?P<name>\w+)):'
    r'\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)
RULE = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')
CLASS = re.compile(r"\bfa-([a-z0-9-]+)")
SEARCH = re.compile(r'\s*<script src="[^"]*\b(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')
SIGN = re.compile(r"\\([ef][0-9a-f]{3})\b|([\ue000-\uf8ff])")


def only(script: str, names: set[str]) -> str:
    """The script without the icons of other names. `ValueError` where it has none of `names`."""
    kept: set[str] = set()

    def entry(match: re.Match) -> str:
        own = {match["quoted"] or match["name"], *re.findall(r'"([\w-]+)"', match["aliases"])}
        kept.update(own & names)
        return match[0] if own & names else ""

    shorter = ENTRY.sub(entry, script)
    if not kept:
        raise ValueError(
            f"none of {', '.join(sorted(names)) or 'no icons'} is in the script: has the theme changed it?"
        )
    return shorter


def only_rules(style: str, names: set[str]) -> str:
    """The style without the rules of icons of other names."""
    return RULE.sub(lambda match: match[0] if names & {*CLASS.findall(match[0])} else "", style)


def only_signs(font: Path, signs: Iterable[int]) -> None:
    """The font file with the glyphs of some code points alone."""
    from fontTools import subset

    options = subset.Options(flavor="woff2", notdef_outline=True, layout_features=[])
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=signs)
    with subset.load_font(str(font), options) as whole:
        subsetter.subset(whole)
        subset.save_font(whole, str(font), options)


def used(folder: Path) -> set[str]:
    """Names of icons, and of looks such as `lg`, that the pages of a folder ask for."""
    pages = (file for file in folder.rglob("*.html") if "_static" not in file.parts)
    return {name for page in pages for name in CLASS.findall(page.read_text(encoding="utf-8"))}


def without_search(app, exception) -> None:
    if (
        exception is None
        and app.builder.format == "html"
        and not app.config.html_theme_options.get("search_as_you_type")
    ):
        for page in Path(app.outdir).rglob("*.html"):
            if page.name != "search.html" and "_static" not in page.parts:
                text = page.read_text(encoding="utf-8")
                page.write_text(SEARCH.sub("", text), encoding="utf-8")


def shorten(app, exception) -> None:
    out = Path(app.outdir)
    if exception is not None or app.builder.format != "html" or not (out / SCRIPT).is_file():
        return
    names = used(out)
    for file, shorter in ((out / SCRIPT, only), (out / STYLE, only_rules)):
        file.write_text(shorter(file.read_text(encoding="utf-8"), names), encoding="utf-8")
    styles = "".join(file.read_text(encoding="utf-8") for file in (out / "_static").rglob("*.css"))
    for font in (out / FONTS).glob("*.woff2"):
        only_signs(font, {int(code, 16) if code else ord(sign) for code, sign in SIGN.findall(styles)})


def setup(app) -> dict:
    app.connect("build-finished", shorten)
    app.connect("build-finished", without_search)
    return {"parallel_read_safe": True}
