"""Figures: what they refuse, where they put things, that one palette reads in light and dark; what moved to book/."""

import inspect
import re

import matplotlib.pyplot as plt
import pytest
import torch

from book import figures, house_numbers
from einet import RegionGraph, datasets, plotting, poon_domingos, random_binary_trees


@pytest.fixture(autouse=True)
def _clean():
    with plt.rc_context():
        yield
    plt.close("all")


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#14181e"])
def test_ink_reads_on_both_themes(page):
    assert contrast(figures.INK, page) >= 4
    assert contrast(figures.SUM_INK, page) >= 3.5


def test_style_leaves_the_background_out():
    figures.style()
    fig, ax = plt.subplots()
    assert fig.get_facecolor()[3] == ax.get_facecolor()[3] == 0


def test_image_grid_places_images_row_by_row():
    images = torch.arange(5.0)[:, None, None].expand(5, 2, 3) / 4
    canvas = plotting.image_grid(images, columns=3).images[0].get_array()
    assert canvas.shape == (2 + 1 + 2, 3 * 4 - 1, 4)
    assert canvas[3, 4, 0] == 1 and canvas[0, 8, 0] == 0.5
    assert (canvas[2] == 0).all() and (canvas[3:, 8:] == 0).all(), "gaps and missing images are transparent"


def test_image_grid_shows_what_is_hidden():
    images = torch.ones(1, 2, 2, 3)
    images[0, 0, 0] = float("nan")
    canvas = plotting.image_grid(images).images[0].get_array()
    assert canvas[0, 0, 3] < 1 and canvas[1, 1].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4), (1, 4, 4, 2)])
def test_image_grid_refuses(shape):
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        plotting.image_grid(torch.zeros(shape))


@pytest.mark.parametrize("graph", [random_binary_trees(4, 2, 2, seed=0), poon_domingos((2, 2), 1), RegionGraph([{0}])])
def test_region_graph_shows_every_node_once(graph):
    ax = plotting.draw_region_graph(graph)
    places = [text.get_position() for text in ax.texts]
    assert len(set(places)) == len(graph.regions) + len(graph.partitions)
    assert len(ax.lines) == 3 * len(graph.partitions)
    heights = [text.get_position()[1] for text in ax.texts]
    top = [t.get_text() for t in ax.texts if t.get_position()[1] == max(heights)]
    assert top == [" ".join(map(str, range(graph.num_variables)))]


def test_trees_stand_side_by_side():
    ax = plotting.draw_region_graph(random_binary_trees(8, 3, 3, seed=0))
    leaves = sorted((t.get_position()[0], int(t.get_text())) for t in ax.texts if t.get_position()[1] == 0)
    variables = [variable for _, variable in leaves]
    assert [sorted(variables[start : start + 8]) for start in (0, 8, 16)] == [list(range(8))] * 3


def test_region_graph_refuses_a_large_one():
    with pytest.raises(ValueError, match="150.*300"):
        plotting.draw_region_graph(poon_domingos((4, 4), 1))


@pytest.mark.parametrize("function", [plotting.image_grid, plotting.draw_region_graph, plotting.surprise])
def test_docstring_says_where_it_comes_from(function):
    doc = inspect.getdoc(function)
    assert re.search(r"^Source: \S", doc, re.M)


def test_what_moved_to_the_book_is_found_under_its_old_name_for_one_version():
    for name in ("style", "SUM_INK"):
        with pytest.warns(DeprecationWarning, match=f"einet.plotting.{name} has moved to the book") as told:
            assert getattr(plotting, name) is getattr(figures, name)
        assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="from book.house_numbers import house_numbers") as told:
        images, labels = datasets.house_numbers(2, seed=1)
    assert told[0].filename == __file__ and datasets.drawn.house_numbers is datasets.house_numbers
    for old, new in zip((images, labels), house_numbers.house_numbers(2, seed=1), strict=True):
        assert torch.equal(old, new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        plotting.nothing  # noqa: B018


def test_surprise_shows_the_odd_rows_and_tells_the_odd_cells():
    generator = torch.Generator().manual_seed(0)
    nats = torch.rand(100, 3, generator=generator)
    nats[:, 2] += 50  # another unit, which is not odd
    nats[7, 1], nats[60, 0], nats[3, 2] = 20.0, 9.0, torch.nan
    table = torch.arange(300.0).reshape(100, 3)
    ax = plotting.surprise(nats, table, odd=2, rows=10)
    assert [text.get_text() for text in ax.texts] == ["22", "180"]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert len(rows) == 10 and rows == sorted(rows, key=int) and {"7", "60"} <= set(rows)
    picture = torch.as_tensor(ax.images[0].get_array().filled(torch.nan))
    assert picture[rows.index("7"), 1] == pytest.approx(20 - nats[:, 1].median().item(), abs=0.02)
    assert picture[:, 2].nan_to_num(0).abs().max() < 1
    assert [text.get_text() for text in plotting.surprise(nats, odd=1).texts] == [f"{picture.nan_to_num(0).max():.1f}"]
    plt.close("all")


@pytest.mark.parametrize(
    "arguments",
    [(torch.zeros(3),), (torch.zeros(0, 3),), (torch.zeros(3, 2), torch.zeros(2, 3)), (torch.zeros(3, 2), None, 5, 0)],
)
def test_surprise_refuses(arguments):
    with pytest.raises(ValueError):
        plotting.surprise(*arguments)
    plt.close("all")
