import os

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # without it, and pandas, scikit-learn skips some of its checks

# A test that failed yesterday fails today: examples are drawn from a fixed seed. The first call of a torch
# operator is slow, so there is no deadline.
settings.register_profile("einet", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("einet"), max_examples=10)
settings.load_profile("einet")


def pytest_itemcollected(item):
    """Whatever opens a page is marked, so that nobody has to remember it."""
    if "browser" in getattr(item, "fixturenames", ()):
        item.add_marker("browser")


@pytest.fixture(autouse=True)
def _state_of_torch():
    """Tests may draw from torch's global generator and run experiments, which flush denormal numbers: each starts from
    the same state, in any order."""
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def browser():
    from pages import chromium  # here, since most runs open no page

    with chromium() as opened:
        yield opened
