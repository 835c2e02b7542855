"""data/README.md, made from einet's registry: python experiments/data_readme.py [--print]"""

from __future__ import annotations

import argparse
from pathlib import Path

from einet.datasets import DEBD_URL, SPLITS, debd_sources
from einet.datasets.images import CELEBA_URL, DEBIAN_FOLDER, FASHION_MNIST, FASHION_MNIST_URL, SVHN, SVHN_URL

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

## Images

`einet.datasets` reads them as uint8. Needed are Pillow, and scipy for SVHN. A checksum is of the uncompressed file,
looked at whenever the file is read, and of what the server sends, looked at when it arrives.

### SVHN: `svhn/{{train,extra,test}}_32x32.mat`

`svhn(split)`: crops of house numbers, 32 x 32, and the digit in their middle.

- **Source**: <{svhn_url}>, downloaded when first asked for.
- **Made by** Netzer et al. (2011), "Reading digits in natural images with unsupervised feature learning".
- **Licence or terms**: "for non-commercial use only", says the page. This project does not pass the files on.
- **Format**: MATLAB 5, `X` (32, 32, 3, n), `y` (n, 1), where 10 stands for the digit 0.

| file | images | SHA-256 |
|---|---|---|
{svhn}

### Fashion-MNIST: `fashion-mnist/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte`

`fashion_mnist(split)`: pictures of clothes, 28 x 28, of ten kinds.

- **Source**: Debian's package `dataset-fashion-mnist`, found in `{debian}/fashion-mnist`, or else
  <{fashion_url}>, downloaded when first asked for.
- **Made by** Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST: a novel image dataset for benchmarking machine learning
  algorithms".
- **Licence**: MIT.
- **Format**: IDX, gzipped (`.gz`) or not.

| file | rows | SHA-256 |
|---|---|---|
{fashion}

SHA-256 of the gzipped files as the server sends them (Debian gzips anew):

```
{served}
```

### CelebA: `celeba/list_eval_partition.txt`, `celeba/img_align_celeba/*.jpg`

`celeba(split)`: faces, the middle 128 x 128 pixels of 178 x 218.

- **Source**: <{celeba_url}>, "Align&Cropped Images" and their partition.
- **Made by** Liu, Luo, Wang and Tang (2015), "Deep learning face attributes in the wild".
- **Licence or terms**: for non-commercial research, after agreeing to them, so that nothing here downloads it.
- **Checked**: every line of the partition; size and completeness of every JPEG. There is no published checksum.

### What needs no file

`digits()` are in scikit-learn (UCI's optical recognition of handwritten digits, 8 x 8, from 0 to 16). The book's
house numbers (book/house_numbers.py) are drawn when asked for, with fonts that come with matplotlib.
`image_folder(path, size)` reads your own.
"""


def readme() -> str:
    sources = debd_sources()
    table = []
    for name, origin in ORIGINS.items():
        rows = " / ".join(f"{sources[name, split].rows:,}" for split in SPLITS)
        table.append(f"| {name} | {origin} | {sources[name, 'train'].variables} | {rows} |")
    sums = [f"{source.sha256}  {source.path}" for source in sources.values()]
    debd = {"url": DEBD_URL, "splits": " / ".join(SPLITS), "table": "\n".join(table), "sums": "\n".join(sums)}
    return TEXT.format(**debd, **images())


def images() -> dict[str, str]:
    """What the page says of images: addresses, tables of files, and what a server sends."""
    fashion = [source for pair in FASHION_MNIST.values() for source in pair]
    files = {
        name: "\n".join(f"| {s.path} | {s.rows:,} | `{s.sha256}` |" for s in sources)
        for name, sources in (("svhn", SVHN.values()), ("fashion", fashion))
    }
    served = "\n".join(f"{source.served_sha256}  {source.path}.gz" for source in fashion)
    urls = {"svhn_url": SVHN_URL, "fashion_url": FASHION_MNIST_URL, "celeba_url": CELEBA_URL, "debian": DEBIAN_FOLDER}
    return {**files, **urls, "served": served}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", help="to standard output instead of data/README.md")
    if parser.parse_args().print:
        print(readme(), end="")
    else:
        README.parent.mkdir(exist_ok=True)
        README.write_text(readme(), encoding="utf-8")
