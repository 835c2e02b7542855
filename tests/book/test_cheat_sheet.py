"""The cheat sheet: what it calls answers, arguments that it names exist, and it is one sheet of A4."""

import inspect
import re

import pytest
import torch
from project import ROOT

import einet

PAGE = (ROOT / "book/cheat_sheet.md").read_text(encoding="utf-8")
PRINTED = ROOT / "_build/html/book/cheat_sheet.html"


def rows_of(heading):
    """The cells of the table below a heading, without the table's own."""
    section = re.search(rf"^## {heading}$(.+?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    return [row.strip("|").split("|") for row in re.findall(r"^\|.*\|$", section, re.M)[2:]]


CALLS = [call for row in rows_of("Questions") for call in re.findall(r"`([^`]+)`", row[2])]


def known():
    graph = einet.random_binary_trees(6, depth=2, num_replicas=3, seed=0)
    one, leaf = torch.arange(6), einet.Bernoulli()
    return {name: getattr(einet, name) for name in einet.__all__} | {
        "model": einet.Einet(graph, leaf, num_sums=3, seed=0),
        "other": einet.Einet(graph, leaf, num_sums=2, seed=1),
        "by_class": einet.Einet(graph, leaf, num_sums=2, num_classes=2, seed=1),
        "log_prior": torch.tensor([0.3, 0.7]).log(),
        "x": torch.randint(2, (4, 6), generator=torch.Generator().manual_seed(0)).float(),
        "seen": one < 3,
        "query": one > 3,
        "evidence": one < 2,
        "n": 5,
        "low": torch.zeros(6),
        "high": torch.tensor([1.0, 0, 1, 0, 1, 1]),
    }


@pytest.mark.parametrize("call", CALLS)
def test_every_call_answers(call):
    answer = eval(call, known())
    for part in answer if isinstance(answer, tuple) else (answer,):
        assert torch.isfinite(torch.as_tensor(part)).all()


def test_arguments_of_the_knobs_exist():
    """Names in the last column: of functions, or of arguments of one that trains, of a model, or of a leaf."""
    training = einet.fit, einet.fit_mixture, einet.Einet, einet.Normal, einet.Bernoulli
    arguments = {name for function in training for name in inspect.signature(function).parameters}
    named = {name for row in rows_of("Training") for name in re.findall(r"`(\w+)", row[2])}
    assert len(named) > 10 and named <= arguments | {*einet.__all__}


def test_shapes():
    given = known()
    model, x, seen, n = (given[name] for name in ("model", "x", "seen", "n"))
    (num_rows, num_variables), k = x.shape, model.num_sums
    assert model(x).shape == (num_rows,) and given["by_class"](x).shape == (num_rows, 2)
    assert einet.sample(model, n).shape == (n, num_variables)
    assert einet.sample_conditional(model, x, seen, n).shape == (n, num_rows, num_variables)
    assert model.levels[0].einsums[0].weights.shape[1:] == (k, k * k)
    assert model.levels[-1].mixings[0].weights.shape == (1, 3, 1)
    thin = einet.Einet(model.graph, einet.Normal(), num_sums=k, sum_product="cp")
    assert thin.levels[0].einsums[0].weights.shape[1:] == (k, k)
    (part,) = thin.leaves.parts
    assert part.phi.shape == (2, len(part.pairs), 1, k)


@pytest.mark.skipif(not PRINTED.exists(), reason="no built book: run `make book` first")
def test_it_is_one_sheet_of_paper(browser):
    tab = browser.new_page()
    tab.goto(PRINTED.as_uri())
    tab.evaluate("window.MathJax?.startup?.promise")
    sheet = tab.pdf(prefer_css_page_size=True)
    tab.close()
    assert len(re.findall(rb"/Type\s*/Page\b", sheet)) == 1
    width, height = map(float, re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", sheet).groups())
    assert (round(width), round(height)) == (595, 842), "A4, in points"
