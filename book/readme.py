"""What the README takes from elsewhere: Table 1 in short from book/results, pictures from the outputs of the intro.

    python book/readme.py    # writes both anew; a test holds that they are

The table stands between two comments. A picture is the output of a cell of intro.ipynb with a tag such as
`readme-race`, and becomes _static/readme_race.svg (or .png, where the cell made no SVG).
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from book import origin, table_1

BOOK = Path(__file__).resolve().parent
README = BOOK.parent / "README.md"
START, END = "<!-- Table 1 in short: python book/readme.py -->", "<!-- end of Table 1 -->"


def with_table(text: str) -> str:
    """The README with the table as the results have it now. `ValueError` where it lacks the two comments."""
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"{README} must have the comments {START} and {END}, once each")
    return re.sub(f"{START}.*{END}", lambda _: f"{START}\n{table()}\n{END}", text, flags=re.S)


def table() -> str:
    """Table 1 in short, a sentence about it, and where it came from."""
    found = table_1.Table(origin.read("debd"))
    origins = [record["provenance"] for record in found.told.values() if record]
    days = sorted({origin["date"][:10] for origin in origins})
    machines = ", ".join(sorted({origin["machine"] for origin in origins}))
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    told = f"Measured {when} ({machines}); [book/results/debd.json](book/results/debd.json) has the commit of each."
    return f"{found.to_markdown()}\n\n{found.summary()} {found.at_first()} {told}"


def pictures() -> dict[str, bytes]:
    """Names of files in _static, and what has to be in them."""
    cells = json.loads((BOOK / "intro.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = [(t, cell) for cell in cells for t in cell["metadata"].get("tags", ()) if t.startswith("readme-")]
    return dict(_picture(tag, cell["outputs"]) for tag, cell in tagged)


def _picture(tag: str, outputs: list[dict]) -> tuple[str, bytes]:
    for data in (out.get("data", {}) for out in outputs):
        if "image/svg+xml" in data:
            undated = re.sub(r"\s*<metadata>.*?</metadata>", "", "".join(data["image/svg+xml"]), flags=re.S)
            return f"{tag.replace('-', '_')}.svg", undated.encode()
        if "image/png" in data:
            return f"{tag.replace('-', '_')}.png", base64.b64decode(data["image/png"])
    raise ValueError(f"the cell {tag} of intro.ipynb has no picture: run the notebook first")


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    for name, content in pictures().items():
        (BOOK / "_static" / name).write_bytes(content)
