"""What pyproject.toml promises of other packages and of Python: no more than it names, and no less."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from project import PYPROJECT, ROOT

from einet.former import FORMER

PROJECT = PYPROJECT["project"]
OLDEST_PYTHON = tuple(map(int, re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()))
# Modules that need more than the core does; kernels needs triton, for GPUs.
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "einet").rglob("*.py")
    if file.stem not in ("__init__", "kernels", "estimator") or file.parent.name == "tables"
)

# What a user of the core may do, where nothing is installed but what the core declares.
CORE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))
import warnings
import torch
warnings.simplefilter("error")  # after torch, which may warn that it found no numpy
import einet

torch.set_num_threads(1)
x, seen = torch.randint(0, 2, (200, 8)).float(), torch.arange(8) < 3
graph = einet.random_binary_trees(8, 2, 2, seed=0)
model, path = einet.Einet(graph, einet.Bernoulli(), num_sums=3, seed=0), sys.argv[1] + "/model.safetensors"
einet.fit(model, x, valid=x[:50], epochs=2, checkpoint=sys.argv[1] + "/run.safetensors")  # progress=True is the default
einet.save(model, path, einet.EM(model))
einet.load_optimizer(path, einet.EM(model))
assert torch.equal(einet.load(path)(x), model(x))
mixture = einet.Mixture([model, einet.load(path)], [0.5, 0.5])
for asked in (model, mixture):
    einet.sample(asked, 3), einet.sample_conditional(asked, x, seen), einet.log_density(asked, x, seen)
    einet.log_conditional(asked, x, ~seen, seen), einet.log_marginal(asked, x, seen)
    einet.conditional_mean(asked, x, seen), einet.conditional_variance(asked, x, seen), einet.mpe(asked, x, seen)
    einet.conditional_marginals(asked, x, seen).probabilities()
    einet.entropy(asked, 100), einet.entropy_bounds(asked), einet.kl(asked, mixture, 100)
    einet.save(asked, path), einet.load(path)
einet.mutual_information(model, [0], [1, 2]), einet.constrained(einet.unconstrained(model))
print("all of it")
"""


def name_of(requirement):
    """The name of a package in a requirement, as `packages_distributions` of one spelling can be compared with it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared(names):
    """Packages by these names, and all that they declare in turn."""
    found, waiting = set(), [name_of(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            more = requires(name) or []
        except PackageNotFoundError:  # what another system or Python would need
            continue
        waiting += [name_of(text) for text in more if "extra ==" not in text]
    return found


def test_the_core_needs_what_it_declares_and_nothing_else(tmp_path):
    allowed = declared(PROJECT["dependencies"]) | {"einet"}
    others = [m for m, owners in packages_distributions().items() if allowed.isdisjoint(map(name_of, owners))]
    done = subprocess.run(
        [sys.executable, "-c", CORE, str(tmp_path), *others], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == "all of it\n", done.stderr[-2000:]


IMPORT_ALL = """
import importlib, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch  # may warn that it found no numpy
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # what is not installed here is not looked at
        if name == "einet" or error.name.startswith("einet"):
            raise
"""


@pytest.mark.parametrize(
    ("former", "now", "name"),
    [
        ("checkpoint", "storage.checkpoint", "save"),
        ("clusters", "clustered.mixtures", "fit_mixture"),
        ("columns", "tables.columns", "Columns"),
        ("estimator", "tables", "EinetDensity"),
        ("explain", "queries.most_probable", "mpe"),
        ("exponential_family", "family", "ExponentialFamily"),
        ("files", "storage.archive", "digest"),
        ("information", "queries.information", "kl"),
        ("rows", "data", "log_density"),
        ("sampling", "queries.sampling", "sample_conditional"),
        ("trees", "queries.passes", "upward"),
    ],
)
def test_modules_of_the_first_version_say_where_they_are_now(former, now, name):
    sys.modules.pop(f"einet.{former}", None)
    with pytest.warns(DeprecationWarning, match=f"^einet.{former} is now einet.{now}$"):
        module = importlib.import_module(f"einet.{former}")
    assert getattr(module, name) is getattr(importlib.import_module(f"einet.{now}"), name)


def test_every_former_module_is_tried():
    (marks,) = test_modules_of_the_first_version_say_where_they_are_now.pytestmark
    assert [former for former, _, _ in marks.args[1]] == sorted(FORMER.keys() - {"kernels"}), "which needs Triton"


def test_no_former_module_shadows_one_that_there_is():
    assert not FORMER.keys() & {module.partition(".")[2] for module in MODULES}
    with pytest.raises(ModuleNotFoundError, match="einet.nowhere"):
        importlib.import_module("einet.nowhere")


def test_nothing_warns_when_it_is_imported():
    """`python -W error`, as the tests of who uses it may be run."""
    command = [sys.executable, "-W", "error", "-c", IMPORT_ALL, "einet", *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("file", sorted((ROOT / "einet").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_oldest_python_reads_it(file):
    ast.parse(file.read_text(encoding="utf-8"), feature_version=OLDEST_PYTHON)


def test_ruff_checks_for_the_oldest_python():
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py{}{}".format(*OLDEST_PYTHON)


OLD = """
import sys
import sklearn.utils.validation
sklearn.__version__ = "1.5.2"
del sklearn.utils.validation.validate_data
import einet.tables
"""


@pytest.mark.parametrize("code, name", [
    ("import einet.tables", "einet.tables"),
    ("import einet, torch; x = torch.rand(9, 2).round(); einet.fit_mixture(x, 2, einet.RegionGraph([{0, 1}]), "
     "einet.Bernoulli())", "fit_mixture"),
])  # fmt: skip
def test_what_needs_scikit_learn_says_how_to_get_it(code, name):
    hidden = "import sys; sys.modules['sklearn'] = None; "
    done = subprocess.run([sys.executable, "-c", hidden + code], capture_output=True, text=True, cwd=ROOT, check=False)
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: {name} needs scikit-learn") and said.endswith("pip install 'einet[tables]'")


def test_an_old_scikit_learn_is_told_which_one_is_needed():
    """The version is that of pyproject.toml, at the import, whatever the old one lacks."""
    pytest.importorskip("sklearn")
    table = PROJECT["optional-dependencies"]["tables"][0]
    floor = re.fullmatch(r"scikit-learn>=([\d.]+)", table)[1]
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.splitlines()[-1].startswith("ImportError: einet.tables needs scikit-learn")
    assert f"scikit-learn {floor} or later, this one is 1.5.2" in done.stderr
