"""data/README.md, made from einet's registry: python experiments/data_readme.py [--print]"""

from __future__ import annotations

import argparse
from pathlib import Path

from einet.datasets import DEBD_URL, SPLITS, debd_sources

README = Path(__file__).resolve().parent.parent / "data" / "README.md"

# The paper's names, where they differ, and where each set is from.
ORIGINS = {
    "nltcs": "National Long Term Care Survey",
    "msnbc": "page visits on msnbc.com, UCI",
    "kdd": "KDD Cup 2000, click streams; the paper's kdd-2k",
    "plants": "plants and where they grow, USDA, UCI",
    "jester": "ratings of jokes, Jester",
    "baudio": "Audioscrobbler; the paper's audio",
    "bnetflix": "Netflix prize; the paper's netflix",
    "accidents": "traffic accidents in Belgium, FIMI",
    "tretail": "market baskets of a Belgian shop, FIMI; the paper's retail",
    "pumsb_star": "census, FIMI; the paper's pumsb-star",
    "dna": "splice junctions of DNA, UCI",
    "kosarek": "clicks on a Hungarian news portal, FIMI",
    "msweb": "visits to microsoft.com, UCI",
    "book": "Book-Crossing ratings",
    "tmovie": "EachMovie ratings; the paper's each-movie",
    "cwebkb": "words of university pages, WebKB; the paper's web-kb",
    "cr52": "words of news, Reuters-21578, 52 classes; the paper's reuters-52",
    "c20ng": "words of posts, 20 Newsgroups; the paper's 20ng",
    "bbc": "words of BBC news",
    "ad": "Internet advertisements, UCI",
}

TEXT = """\
# Data sets

What einet downloads comes into this folder, and git ignores all of it but this page. Set `EINET_DATA` to a folder of
the same layout to use files that are elsewhere. This page is made by `python experiments/data_readme.py`.

## Twenty binary data sets: `debd/<name>/<name>.{{train,valid,test}}.data`

The benchmark of density estimation on binary data, of Table 1. `einet.datasets.debd(name, split)` reads them.

- **Source**: the public repository arranger1044/DEBD, at the commit in the address of each file,
  <{url}>`<name>/<name>.<split>.data`.
- **Made by** Lowd and Davis (2010), "Learning Markov network structure with decision trees", and Van Haaren and Davis
  (2012), "Markov network structure learning: a randomized feature generation approach", from public data sets.
- **Licence or terms**: the repository has no licence; its README asks users to cite the two papers above. Terms of the
  original sources, where there are any, still hold. This project does not pass the files on: you fetch them from there.
- **Format**: a row a line, cells 0 or 1, separated by commas. `.data` and `.data.gz` are both read.
- **Checked**: number of bytes (2 x rows x columns), SHA-256 of the uncompressed file, every cell.

| name | what it is about | columns | {splits} rows |
|---|---|---|---|
{table}

SHA-256 of the uncompressed files; their paths are below `debd/`:

```
{sums}
```
"""


def readme() -> str:
    sources = debd_sources()
    table = []
    for name, origin in ORIGINS.items():
        rows = " / ".join(f"{sources[name, split].rows:,}" for split in SPLITS)
        table.append(f"| {name} | {origin} | {sources[name, 'train'].variables} | {rows} |")
    sums = [f"{source.sha256}  {source.path}" for source in sources.values()]
    return TEXT.format(url=DEBD_URL, splits=" / ".join(SPLITS), table="\n".join(table), sums="\n".join(sums))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="to standard output instead of data/README.md")
    if parser.parse_args().print:
        print(readme(), end="")
    else:
        README.parent.mkdir(exist_ok=True)
        README.write_text(readme(), encoding="utf-8")
