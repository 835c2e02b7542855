"""No chapter uses what a later one explains: where each term of the glossary is defined, and where it is first used.

A term is defined on the page that first uses it, and linked to the glossary there: `[*nats*](notation.md#nat)`. What
comes before a reader has begun, the promise of a chapter, its headings and captions of figures, is not counted.
"""

import re
from functools import cache

import nbformat
import pytest
import yaml
from project import ROOT

BOOK = ROOT / "book"

# By heading of the glossary: the page that defines the term, and how it looks in a sentence.
TERMS = {
    "Anomaly detection": ("intro", r"anomal(y|ies)"),
    "Chow-Liu tree": ("05_structures", r"Chow-Liu"),
    "Conditional": ("01_circuits", r"(a|the|of) conditionals?(?! (density|distribution|mean|prob))"),
    "Decomposable": ("01_circuits", r"decomposab\w+"),
    "Density estimation": ("08_queries", r"density estimation"),
    "Deterministic": ("08_queries", r"determinis(tic|m)"),
    "EM": ("07_em", r"E-step|M-step"),
    "Einsum layer": ("02_einsum_layer", r"einsum layers?"),
    "Entry": ("01_circuits", r"entr(y|ies)"),
    "Evidence": ("01_circuits", r"evidence"),
    "Expectation parameters": ("06_leaves", r"expectation parameters?"),
    "Exponential family": ("06_leaves", r"exponential famil(y|ies)"),
    "Floor": ("03_log_einsum_exp", r"floors?"),
    "Held-out rows": ("05_structures", r"held.out"),
    "Imputation": ("08_queries", r"imput(e|es|ed|ing|ation)"),
    "Leaf": ("01_circuits", r"leaf|leaves(?! (room|open))"),
    "Log-likelihood": ("intro", r"log-likelihoods?"),
    "MPE": ("08_queries", r"MPE|most probable explanations?"),
    "Marginal": ("intro", r"marginals?"),
    "Mixing layer": ("04_layers", r"mixing layers?"),
    "Mutual information": ("05_structures", r"mutual information"),
    "Nat": ("intro", r"nats?"),
    "Natural gradient": ("07_em", r"natural gradient"),
    "Partition": ("01_circuits", r"partitions?"),
    "Pass": ("intro", r"(a|one|two) pass(es)?"),
    "Posterior": ("07_em", r"posteriors?"),
    "Probabilistic circuit": ("intro", r"probabilistic circuits?"),
    "Pseudocount": ("intro", r"pseudocounts?"),
    "Query": ("01_circuits", r"quer(y|ies)"),
    "Region": ("01_circuits", r"regions?"),
    "Replica": ("05_structures", r"replicas?"),
    "Responsibility": ("07_em", r"responsibilit(y|ies)"),
    "Scope": ("01_circuits", r"scopes?"),
    "Smooth": ("01_circuits", r"smooth(ness)?(?! histo)"),
    "Step size": ("07_em", r"step sizes?"),
    "Thin layer": ("05_structures", r"thin layers?"),
    "Tractable": ("01_circuits", r"tractab\w+"),
    "Underflow": ("03_log_einsum_exp", r"underflow\w*"),
}


@cache
def pages():
    """Stems of what is read in order: the first page and the chapters."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"].split("/")[1], *(each["file"].split("/")[1] for each in toc["parts"][0]["chapters"])]


@cache
def paragraphs(stem):
    """What a reader reads, without code, formulas, headings, the promise and the captions of hand-drawn figures."""
    cells = nbformat.read(BOOK / f"{stem}.ipynb", as_version=4).cells
    source = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    source = re.sub(r"^(:{3,}|`{3,})\{figure\}.*?^\1$", "", source, flags=re.S | re.M)
    source = re.sub(r"```.*?```|\$\$.*?\$\$|^#.*?$", "", source, flags=re.S | re.M)
    source = re.sub(r"^\*\*The promise\.\*\*.*?\n\n", "", source, flags=re.S | re.M)
    return [text for text in re.split(r"\n\s*\n", source) if text.strip()]


def words(paragraph):
    """Without what a link leads to, and what is code, a formula or a citation."""
    prose = re.sub(r"\[|\]\([^)]*\)|`[^`]*`|\$[^$]*\$|\{cite:\w\}`[^`]*`", "", paragraph)
    return " ".join(prose.split())


def first_use(pattern):
    for stem in pages():
        for paragraph in paragraphs(stem):
            if re.search(rf"\b({pattern})\b", words(paragraph), re.I):
                return stem, paragraph
    raise AssertionError(f"no page has {pattern}")


def slug(heading):
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_defined_where_it_is_first_used(term):
    page, pattern = TERMS[term]
    stem, paragraph = first_use(pattern)
    assert stem == page, f"{stem} uses it before {page} defines it: {paragraph}"
    assert f"](notation.md#{slug(term)})" in paragraph, f"no link to the glossary in: {paragraph}"


def test_every_term_of_the_glossary_is_in_this_list():
    text = (BOOK / "notation.md").read_text(encoding="utf-8")
    terms = re.findall(r"^### (.*)$", text, re.M)
    assert set(terms) == TERMS.keys()
    assert terms == sorted(terms, key=str.lower), "the glossary is sorted"


def test_links_to_the_glossary_lead_to_a_term():
    slugs = {slug(term) for term in TERMS} | {"terms"}
    for stem in pages():
        linked = {target for text in paragraphs(stem) for target in re.findall(r"\]\(notation\.md#([\w-]+)\)", text)}
        assert linked <= slugs, f"{stem}: {linked - slugs}"
