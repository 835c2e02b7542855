"""Data sets: found, checked, downloaded from a server on this machine, refused; and the real ones where they are."""

import gzip
import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from project import ROOT
from work import cost

from einet.datasets import Source, binary, debd, debd_sources, disk

TEXT = b"0,1,1\n1,0,0\n"
VALUES = [[0, 1, 1], [1, 0, 0]]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An $EINET_DATA and a cache, both empty; a registry of one made file. Returns a function that stores bytes."""
    given, cache = tmp_path / "given", tmp_path / "cache"
    monkeypatch.setenv("EINET_DATA", str(given))
    monkeypatch.setattr(disk, "cache_folder", lambda: cache)
    register(monkeypatch, TEXT)

    def store(content, ending="", folder=given):
        file = folder / "debd" / "toy" / f"toy.train.data{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content) if ending == ".gz" else content)
        return file

    store.cache = cache
    return store


def register(monkeypatch, text, rows=2):
    source = Source("toy/toy.train.data", rows, 3, hashlib.sha256(text).hexdigest())
    monkeypatch.setattr(binary, "debd_sources", lambda: {("toy", "train"): source})


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_reads_both_forms(place, ending):
    place(TEXT, ending)
    x = debd("toy", "train")
    assert x.dtype == torch.uint8 and x.tolist() == VALUES


def test_environment_before_cache(place):
    place(TEXT, folder=place.cache)
    assert debd("toy", "train").tolist() == VALUES
    damaged = place(TEXT[:-6])
    with pytest.raises(ValueError, match=str(damaged)):
        debd("toy", "train")


def test_what_is_kept_in_memory_is_the_callers_own(place):
    file = place(TEXT)
    debd("toy", "train").zero_()
    assert debd("toy", "train").tolist() == VALUES
    file.write_bytes(b"0,0,0\n0,0,0\n")  # and it is read again once the file has changed
    os.utime(file, ns=(1, 1))
    with pytest.raises(ValueError, match="SHA-256"):
        debd("toy", "train")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TEXT[:-6], "6 instead of 12"),
        (b"", "0 instead of 12"),
        (TEXT + b"0,0,0\n", "more than 12"),
        (TEXT[::-1], "SHA-256"),
    ],
)
def test_refuses_damage(place, ending, content, reason):
    place(content, ending)
    with pytest.raises(ValueError, match=reason):
        debd("toy", "train")


@pytest.mark.parametrize("cut", [5, 12, 25])
def test_refuses_a_truncated_gzip_file(place, cut):
    file = place(TEXT, ".gz")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match="damaged"):
        debd("toy", "train")


def test_refuses_bytes_that_are_no_gzip(place):
    place(TEXT, ".gz").write_bytes(b"what a proxy says instead")
    with pytest.raises(ValueError, match="damaged"):
        debd("toy", "train")


@pytest.mark.parametrize(
    "text", [b"0,1,2\n1,0,0\n", b"0,1,/\n1,0,0\n", b"0,1,1,1,0,0\n", b"0;1;1\n1;0;0\n", b"0,1,1\n?,0,0\n"]
)
def test_refuses_cells_that_are_not_binary(place, monkeypatch, text):
    register(monkeypatch, text)
    place(text)
    with pytest.raises(ValueError, match="row . column .|row 0, column|row 1, column 0"):
        debd("toy", "train")


@pytest.mark.parametrize(("name", "split"), [("toys", "train"), ("toy", "training"), ("../toy", "train")])
def test_refuses_unknown_names(place, name, split):
    with pytest.raises(ValueError, match="there are toy, each with"):
        debd(name, split)


# Downloads


class Server(BaseHTTPRequestHandler):
    """Fails `failures` times, then serves `content`."""

    content, failures, asked = TEXT, 0, 0

    def do_GET(self):
        Server.asked += 1
        failing = Server.asked <= Server.failures
        self.send_response(503 if failing else 200)
        self.send_header("Content-Length", str(0 if failing else len(Server.content)))
        self.end_headers()
        self.wfile.write(b"" if failing else Server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(place, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    Server.content, Server.failures, Server.asked = TEXT, 0, 0
    with HTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setattr(binary, "DEBD_URL", f"http://127.0.0.1:{running.server_port}/")
        yield Server
        running.shutdown()
        thread.join()


def test_downloads_once_and_tries_again(place, server, capsys):
    server.failures = 1
    assert debd("toy", "train").tolist() == VALUES
    assert server.asked == 2
    assert (place.cache / "debd" / "toy" / "toy.train.data").read_bytes() == TEXT
    assert debd("toy", "train").tolist() == VALUES
    assert server.asked == 2
    assert "100%" in capsys.readouterr().err  # the progress bar


def test_a_wrong_download_is_not_kept(place, server):
    server.content = TEXT[::-1]
    with pytest.raises(ValueError, match="SHA256"):
        debd("toy", "train")
    assert server.asked == 1 + disk.RETRIES
    assert [file for file in place.cache.rglob("*") if file.is_file()] == []


def test_a_server_that_fails_is_named(place, server):
    server.failures = 99
    with pytest.raises(FileNotFoundError, match="503"):
        debd("toy", "train")


def test_offline(place, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setattr(binary, "DEBD_URL", "http://127.0.0.1:9/")  # nobody listens at the port called discard
    with pytest.raises(FileNotFoundError) as caught:
        debd("toy", "train")
    for said in ("toy.train.data", str(place.cache / "debd" / "toy"), "EINET_DATA", "http://127.0.0.1:9/toy/"):
        assert said in str(caught.value)


def test_without_pooch(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match="pip install pooch"):
        debd("toy", "train")


# The registry and the real files


def test_registry():
    sources = debd_sources()
    assert len(sources) == 60 and len({source.sha256 for source in sources.values()}) == 60
    assert sources["kdd", "train"][1:3] == (180092, 64) and sources["kdd", "train"].bytes == 23051776
    for (name, _), source in sources.items():
        assert len(source.sha256) == 64 and source.variables == sources[name, "train"].variables


def test_readme_is_what_the_registry_says():
    script = [sys.executable, str(ROOT / "experiments" / "data_readme.py"), "--print"]
    made = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "data" / "README.md").read_text() == made


def test_cache_is_the_projects():
    assert disk.cache_folder() == ROOT / "data"


def real(name, split):
    if disk.find("debd", debd_sources()[name, split].path) is None:
        pytest.skip(f"{name}.{split}.data is on no disk here; set EINET_DATA")
    return debd(name, split)


def test_nltcs():
    x = real("nltcs", "test")
    assert x.shape == (3236, 16) and x.dtype == torch.uint8
    assert x[:2].tolist() == [[0] * 16, [1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0]]


def test_kdd_is_read_at_once_and_then_kept():
    real("kdd", "train")

    def read():
        binary._read_table.cache_clear()
        assert debd("kdd", "train").shape == (180092, 64)

    assert cost(read) < 50, "11 million cells took longer than 50 million turns of a loop"
    before = binary._read_table.cache_info()
    assert torch.equal(debd("kdd", "train"), debd("kdd", "train"))
    after = binary._read_table.cache_info()
    assert (after.hits - before.hits, after.misses) == (2, before.misses)
