import os

import pytest
import torch
from hypothesis import settings
from pages import chromium

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # without it, and pandas, scikit-learn skips some of its checks

# A test that failed yesterday fails today: examples are drawn from a fixed seed. The first call of a torch
# operator is slow, so there is no deadline.
settings.register_profile("einet", deadline=None, derandomize=True)
settings.load_profile("einet")


@pytest.fixture(autouse=True)
def _state_of_torch():
    """Tests may draw from torch's global generator and run experiments, which flush denormal numbers: each starts from
    the same state, in any order."""
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened
