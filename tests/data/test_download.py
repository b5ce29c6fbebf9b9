import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from robustkit.data import load
from robustkit.errors import CannotWrite, MissingFile
from tests.data.test_idx import idx, some
from tests.data.test_svhn_gtsrb import write_svhn

NOWHERE = "http://127.0.0.1:1/"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a server on this machine, to which the addresses of two sets point."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        _publish(folder, f"http://127.0.0.1:{running.server_port}/", monkeypatch)
        yield folder
        running.shutdown()
        thread.join()


def _publish(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = some(4)
    resources = []
    for name, _ in datasets.FashionMNIST.resources:
        content = gzip.compress(idx(images if "images" in name else labels))
        (folder / name).write_bytes(content)
        resources.append((name, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [url])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    svhn = folder / "test_32x32.mat"
    write_svhn(svhn)
    entry = [url + svhn.name, svhn.name, hashlib.md5(svhn.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", {"test": entry})


def test_nothing_is_fetched_unasked(server: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(MissingFile):
        load("fashion-mnist", root=tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_fetched_once_then_found(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    images = load("fashion-mnist", root=root, download=True)
    assert np.array_equal(images.stored(slice(None)).numpy(), some(4)[0][:, None])
    assert capsys.readouterr().out == ""
    for path in server.iterdir():
        path.unlink()
    assert load("fashion-mnist", root=root, download=True).sha256 == images.sha256
    assert {path.name for path in root.iterdir()} == {"FashionMNIST"}
    assert not list(root.rglob("*.gz"))


def test_fetched_into_the_cache_where_nothing_else_is_named(server: Path, tmp_path: Path) -> None:
    assert load("svhn", download=True).labels.tolist() == [0, 1, 9]
    assert (tmp_path / "xdg" / "robustkit" / "test_32x32.mat").is_file()


def test_progress_goes_to_standard_error(
    server: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load("svhn", root=tmp_path / "root", download=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100" in err


@pytest.mark.parametrize("spec", ["fashion-mnist", "svhn"])
def test_a_wrong_checksum_leaves_nothing(server: Path, tmp_path: Path, spec: str) -> None:
    for path in server.iterdir():
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(MissingFile, match="could not be downloaded"):
        load(spec, root=tmp_path / "root", download=True)
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize("spec", ["fashion-mnist", "svhn"])
def test_offline_says_what_was_searched_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [NOWHERE])
    monkeypatch.setattr(datasets.SVHN, "split_list", {"test": [NOWHERE, "x.mat", "0"]})
    with pytest.raises(MissingFile) as caught:
        load(spec, root=tmp_path / "root", download=True)
    message = str(caught.value)
    for words in (str(tmp_path / "root"), str(tmp_path / "system"), "--data-root", "refused"):
        assert words in message


def test_where_nothing_can_be_written(server: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="could not be stored"):
        load("svhn", root=tmp_path / "file", download=True)
