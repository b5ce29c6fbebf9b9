"""Files are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustkit.errors import BadInput, CannotWrite, MissingFile
from robustkit.files import folder_atomically, write_atomically


def test_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert list(path.parent.iterdir()) == [path]


def test_pieces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", (bytes([number]) for number in range(3)))
    assert (tmp_path / "file").read_bytes() == b"\x00\x01\x02"


def test_pieces_that_cannot_be_made(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise MissingFile("no image")

    with pytest.raises(MissingFile, match="no image"):
        write_atomically(tmp_path / "file", pieces())
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    path = tmp_path / "file"
    real = os.fsync

    def fsync(number: int) -> None:
        seen.append((path.exists(), os.fstat(number).st_size))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, b"four")
    assert seen == [(False, 4)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    real = Path.open

    def full(self: Path, mode: str = "r") -> object:
        # The temporary file leads to a device that takes nothing.
        self.symlink_to("/dev/full")
        return real(self, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(CannotWrite, match=r"file' failed: No space left on device\..*free so"):
            write_atomically(path, "new")
    assert [child.name for child in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT])
def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fails(number: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(CannotWrite):
        write_atomically(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(BadInput, match="Choose a folder"):
        write_atomically(tmp_path / "file" / "report.json", "new")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(BadInput, match=r"report\.json"):
        write_atomically(tmp_path / "report.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, mode: str = "r") -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BadInput, match=r"cannot be written: Permission denied"):
        write_atomically(tmp_path / "file", "new")


def test_a_folder_is_there_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with folder_atomically(path) as place:
        write_atomically(place / "a", "1")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    with folder_atomically(tmp_path / ".") as place:
        write_atomically(place / "a", "1")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [MissingFile("x"), KeyboardInterrupt(), ValueError("x")])
def test_a_folder_that_cannot_be_filled_is_not_there(tmp_path: Path, error: BaseException) -> None:
    def fill() -> None:
        with folder_atomically(tmp_path / "folder") as place:
            write_atomically(place / "a", "1")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(CannotWrite, match="not empty"), folder_atomically(tmp_path / "folder"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"), folder_atomically(tmp_path / "file"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "old"]
