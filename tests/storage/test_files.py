"""Files on disk: what is replaced, what a kill or a full disk leaves, what is looked at before it is read."""

import errno
import fcntl
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import TREES, network
from safetensors import safe_open

from einet import EM, Normal, fit, fit_mixture, load, save
from einet.storage import archive
from einet.storage.archive import read, write

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
LEFT_OVER = ".einet-0123456789abcdef.tmp"


def test_safetensors_reads_what_is_written(tmp_path):
    """Every type and shape, each at a multiple of its size, as readers in browsers need it."""
    known = [dtype for dtype, name in archive.DTYPE_NAMES.items() if name[:2] not in ("C6", "F8")]  # by all versions
    tensors = {f"{i}": torch.arange(5).to(dtype) for i, dtype in enumerate(known)}
    tensors |= {"none": torch.ones(0, 3), "one": torch.tensor(2.0), "turned": torch.arange(6.0).view(2, 3).T}
    tensors["same"] = tensors["one"]
    write(tmp_path / "m", {"a": "\u00e9"}, tensors)
    for found in (safetensors.torch.load_file(tmp_path / "m"), read(tmp_path / "m")[1]):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            assert found[name].equal(tensor)
    data = (tmp_path / "m").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert all(header[name]["data_offsets"][0] % tensor.itemsize == 0 for name, tensor in tensors.items())
    with safe_open(tmp_path / "m", "pt") as file:
        assert json.loads(file.metadata()["content"]) == {"a": "\u00e9"}


def test_what_readers_would_refuse_is_not_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="x is of torch.complex128"):
        write(tmp_path / "m", {}, {"x": torch.ones(2, dtype=torch.complex128)})
    monkeypatch.setattr(archive, "MAX_HEADER_BYTES", 1000)
    with pytest.raises(ValueError, match="a file at most 1000"):
        write(tmp_path / "m", {"long": "x" * 1000}, {})
    assert not list(tmp_path.iterdir())


# What is replaced


def test_nothing_but_a_regular_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "link to a pipe")
    (tmp_path / "folder").mkdir()
    os.symlink(tmp_path / "folder", tmp_path / "link to a folder")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    ends = os.openpty()
    device = os.ttyname(ends[1])
    before = {path: os.lstat(path) for path in (*tmp_path.iterdir(), device)}
    for path in before:
        with pytest.raises(ValueError, match="cannot write .*: it is (a folder|no regular file)"):
            save(network(), path)
    for path, was in before.items():
        assert os.path.samestat(os.lstat(path), was)
    for end in ends:
        os.close(end)


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link, chain = tmp_path / "disk" / "real", tmp_path / "link", tmp_path / "chain"
    os.symlink(Path("disk") / "real", link)
    os.symlink(link, chain)
    for seed, path in enumerate((link, chain)):  # first there is no file yet
        save(network(seed=seed), path)
        assert link.is_symlink() and chain.is_symlink() and not real.is_symlink()
        assert torch.equal(load(real)(X), network(seed=seed)(X))
    os.symlink(tmp_path / "none" / "m", tmp_path / "astray")
    with pytest.raises(ValueError, match="in no folder that exists"):
        save(network(), tmp_path / "astray")


def test_a_run_begins_behind_a_link(tmp_path):
    os.symlink(tmp_path / "real", tmp_path / "link")
    for epochs in (1, 2):
        fit(network(), X, epochs=epochs, checkpoint=tmp_path / "link", progress=False)
    assert len(read(tmp_path / "real")[0]["training"]["history"]["train"]) == 2


# Temporary files


def test_a_link_at_a_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0123456789abcdef")
    os.symlink(victim, tmp_path / LEFT_OVER)
    with pytest.raises(FileExistsError, match="cannot write"):
        save(network(), tmp_path / "m")
    assert victim.read_text() == "precious" and not (tmp_path / "m").exists()


def test_left_overs_of_the_dead_are_removed(tmp_path):
    """By who saves and by who loads. What somebody holds stays, and so does all that is not such a file."""
    save(network(), tmp_path / "m")
    kept = [".einet-0.tmp", ".einet-0123456789abcdef.tmp.safetensors", ".m.123.tmp", ".einet-fedcba9876543210.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    os.symlink(tmp_path / "m", tmp_path / ".einet-1111111111111111.tmp")
    os.mkfifo(tmp_path / ".einet-2222222222222222.tmp")
    others = set(os.listdir(tmp_path))
    with open(tmp_path / kept[-1]) as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        for act in (lambda: save(network(), tmp_path / "m"), lambda: load(tmp_path / "m")):
            (tmp_path / LEFT_OVER).touch()
            act()
            assert set(os.listdir(tmp_path)) == others
    load(tmp_path / "m")  # now it is dead
    assert set(os.listdir(tmp_path)) == others - {kept[-1]}


def test_who_is_taken_for_dead_too_early_begins_again(tmp_path, monkeypatch):
    """Between a file's creation and its lock somebody else may find it: before it is removed, and after."""
    lock, tried = archive._lock, []

    def found(descriptor):
        (temporary,) = (path for path in tmp_path.iterdir() if path.name.startswith(".einet"))
        tried.append(temporary)
        if len(tried) == 1:
            temporary.unlink()
            raise BlockingIOError
        if len(tried) == 2:
            temporary.unlink()
        lock(descriptor)

    monkeypatch.setattr(archive, "_lock", found)
    save(network(), tmp_path / "m")
    assert len(set(tried)) == 3 and os.listdir(tmp_path) == ["m"]


def test_a_file_is_locked_until_it_has_its_name(tmp_path, monkeypatch):
    seen = []

    def replace(temporary, path):
        archive._remove_left_overs(tmp_path)
        seen.append(os.path.exists(temporary))
        os.rename(temporary, path)

    monkeypatch.setattr(os, "replace", replace)
    save(network(), tmp_path / "m")
    assert seen == [True] and os.listdir(tmp_path) == ["m"]


# Kills and full disks

DIES = """
import json, os, signal, sys, torch
from einet.storage import archive

def dying(module, name, after):
    function = getattr(module, name)
    def step(*arguments):
        result = function(*arguments) if after else None
        os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(module, name, step)

path, seen = sys.argv[1], []
archive.write(path, {"number": 0}, {"x": torch.zeros(1000)})
for name in ("_temporary", "_lock", "_memory", "fsync", "replace", "_sync"):
    for after in (False, True):
        child = os.fork()
        if not child:
            dying(os if hasattr(os, name) else archive, name, after)
            archive.write(path, {"number": 1}, {"x": torch.ones(1000)})
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        content, tensors = archive.read(path)
        seen.append([content["number"], tensors["x"].mean().item(), os.listdir(os.path.dirname(path))])
        archive.write(path, {"number": 0}, {"x": torch.zeros(1000)})
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_killed_at_each_step_of_a_save(tmp_path):
    """The old file or the new one, and after it is read nothing else."""
    done = subprocess.run([sys.executable, "-c", DIES, tmp_path / "m"], capture_output=True, text=True, check=True)
    old, new = [0, 0.0, ["m"]], [1, 1.0, ["m"]]
    assert json.loads(done.stdout) == [old] * 9 + [new] * 3


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save(network(), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {tmp_path / 'm'}: File too large"):
            save(network(seed=1), tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'm'}: No space left") as error:
        save(network(seed=1), tmp_path / "m")
    assert error.value.errno == errno.ENOSPC
    assert (tmp_path / "m").read_bytes() == before and os.listdir(tmp_path) == ["m"]


# Headers


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(start, end, shape=(1,), dtype="F32"):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}}


@pytest.mark.parametrize("content", [
    b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8, b"\xff" * 100, file_of(b"", length=2**63), file_of({}, length=10**6),
    file_of(b"[" * 10**5), file_of(b"[]"), file_of(b"null"), file_of(b"\xff\xfe"), file_of({"x": None}), file_of({}),
    file_of({"__metadata__": {"format": "einet", "version": "1", "content": "{}", "sha256": ""}}),
    file_of({"__metadata__": {"format": "einet", "version": "1"}}), file_of({"__metadata__": [1]}),
    file_of({"x": {"data_offsets": [0, "4"]}}, b"1234"), file_of({"x": {"data_offsets": []}}),
    file_of(tensor(0, 4), b"123"), file_of(tensor(0, 4), b"12345"), file_of(tensor(0, 10**30)),
    file_of(tensor(0, -4)), file_of(tensor(-4, 4), b"1234"), file_of(tensor(0, 4, (2,)), b"1234"),
    file_of(tensor(0, 4, (-1,)), b"1234"), file_of(tensor(0, 4, (2**62, 4)), b"1234"), file_of(tensor(2, 4), b"1234"),
    file_of(tensor(0, 4, dtype="F99"), b"1234"), file_of(tensor(0, 4.0), b"1234"), file_of(tensor(0, True), b"1"),
    file_of(b'{"x":{},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    file_of(tensor(0, 4, (1,)) | {"y": tensor(0, 4)["x"]}, b"1234"),
], ids=lambda content: str(len(content)))  # fmt: skip
def test_hostile_headers(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read {tmp_path / 'm'}: "):
        load(tmp_path / "m")


def test_a_file_is_not_read_beyond_what_its_header_says(tmp_path):
    """A terabyte that occupies no disk."""
    save(network(), tmp_path / "m")
    size = (tmp_path / "m").stat().st_size
    os.truncate(tmp_path / "m", 2**40)
    with pytest.raises(ValueError, match=f"it has {2**40} bytes, and should by its header have {size}"):
        load(tmp_path / "m")


# Resuming


def edited(path, name, change):
    content, tensors = read(path)
    write(path, content, {**tensors, name: change(tensors[name])})


PHI, WEIGHTS = "leaves.parts.0.phi", "levels.0.einsums.0.weights"


@pytest.mark.parametrize("name", [PHI, f"training.{PHI}"])
@pytest.mark.parametrize("change, reason", [
    (lambda phi: phi * torch.nan, "outside what Normal"),
    (lambda phi: phi * 1000, "outside what Normal"),
    (lambda phi: phi.double(), "one dtype"),
    (lambda phi: phi[:, :1], "the shape of"),
], ids=("nan", "bounds", "dtype", "shape"))  # fmt: skip
def test_a_resumed_run_checks_its_parameters(tmp_path, name, change, reason):
    settings = {"valid": -X[:5], "lr": 0.9, "progress": False, "checkpoint": tmp_path / "run"}
    fit(network(), X, epochs=8, **settings)
    assert f"training.{PHI}" in read(tmp_path / "run")[1], "the last epoch should not be the best"
    edited(tmp_path / "run", name, change)
    model = network()
    with pytest.raises(ValueError, match=f"cannot read {tmp_path / 'run'}: .*{reason}"):
        fit(model, X, epochs=9, **settings)
    assert torch.equal(model(X), network()(X))


def test_a_resumed_run_checks_its_weights(tmp_path):
    fit(network(), X, epochs=1, checkpoint=tmp_path / "run", progress=False)
    for change, reason in ((lambda w: w * 1.01, "off a sum of 1"), (lambda w: w.half(), "one dtype")):
        edited(tmp_path / "run", WEIGHTS, change)
        with pytest.raises(ValueError, match=reason):
            fit(network(), X, epochs=2, checkpoint=tmp_path / "run", progress=False)
    content, tensors = read(tmp_path / "run")
    write(tmp_path / "run", content, {name: tensor.double() for name, tensor in tensors.items()})
    with pytest.raises(ValueError, match="must be of torch.float32, got torch.float64"):
        fit(network(), X, epochs=2, checkpoint=tmp_path / "run", progress=False)


def test_what_could_not_be_resumed_is_not_begun(tmp_path):
    model = network().bfloat16()
    with pytest.raises(ValueError, match="float32 or float64"):
        fit(model, X.bfloat16(), optimizer=EM(model), checkpoint=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_resumed_mixture_checks_its_clusters(tmp_path):
    arguments = {"epochs": 1, "num_sums": 2, "progress": False, "checkpoint_folder": tmp_path}
    fit_mixture(X, 2, TREES, Normal(), **arguments)
    right = read(tmp_path / "clusters.safetensors")[1]["labels"]
    for labels, reason in (
        (right[1:], "it should have 40 labels, int64, got torch.int64 .39,."), (right.double(), "got torch.float64"),
        (right + 1, "from 0 to 1, some are not"), (right - 1, "from 0 to 1, some are not"),
    ):  # fmt: skip
        edited(tmp_path / "clusters.safetensors", "labels", lambda _, labels=labels: labels)
        with pytest.raises(ValueError, match=reason):
            fit_mixture(X, 2, TREES, Normal(), **arguments)


# With torch and safetensors alone

ALONE = """
import sys
sys.modules |= dict.fromkeys(("numpy", "tqdm", "scipy", "sklearn"))
import torch, einet
x = torch.randint(0, 2, (60, 8)).float()
model = einet.Einet(einet.random_binary_trees(8, 2, 2, seed=0), einet.Bernoulli(), num_sums=2, seed=0)
einet.fit(model, x, epochs=1)
einet.save(model, sys.argv[1] + "/model", einet.EM(model))
assert torch.equal(einet.load(sys.argv[1] + "/model")(x), model(x))
for epochs in (1, 2):
    model.reset_parameters(0)
    einet.fit(model, x, epochs=epochs, checkpoint=sys.argv[1] + "/run")
model.load_state_dict(model.state_dict())
"""


@pytest.mark.slow
def test_no_other_package_is_needed(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", ALONE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
