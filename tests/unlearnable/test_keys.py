"""Keys: nothing shows them, nothing but their file holds them, and their numbers are fixed."""

import copy
import hashlib
import hmac
import os
import pickle
import stat
from itertools import islice
from pathlib import Path

import pytest
import torch
from scipy import stats

from robustkit.errors import BadInput, CannotWrite, CorruptFile, MissingFile
from robustkit.unlearnable import Key
from robustkit.unlearnable.keys import below, streams

SECRET = bytes(range(32))


def test_the_numbers_are_hmac_sha256_in_counter_mode() -> None:
    """Written out once more, so that no change of the code changes published data unseen."""
    expected = []
    for block in range(2):
        message = f"robustkit unlearnable 1\x1fnumbers filter 7\x1f{block}".encode()
        digest = hmac.digest(SECRET, message, "sha256")
        expected += [int.from_bytes(digest[k : k + 8], "little") for k in range(0, 32, 8)]
    assert list(islice(Key(SECRET).numbers("filter 7"), 8)) == expected
    assert expected[0] == 12147676556767827843


def test_streams_of_other_names_and_keys_differ() -> None:
    found = {
        tuple(islice(key.numbers(name), 2))
        for key in (Key(SECRET), Key(SECRET[::-1]))
        for name in ("filter 1", "filter 11", "mask")
    }
    assert len(found) == 6
    assert Key(SECRET).number("a") != Key(SECRET).number("b")
    assert Key(SECRET).number("a") == Key(SECRET).number("a")


def test_numbers_are_uniform() -> None:
    numbers = [below(number, 1000) for number in islice(Key(SECRET).numbers("x"), 4000)]
    assert min(numbers) >= 0
    assert max(numbers) < 1000
    assert stats.kstest(numbers, stats.uniform(0, 1000).cdf).pvalue > 1e-3
    assert below(0, 9) == 0
    assert below(2**64 - 1, 9) == 8


def test_nothing_shows_the_secret() -> None:
    key = Key(SECRET)
    for text in (repr(key), str(key), f"{key}", key.fingerprint, repr([key])):
        assert SECRET.hex() not in text
        assert str(SECRET) not in text
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("leave", [pickle.dumps, copy.deepcopy])
def test_it_refuses_to_be_pickled(leave: object) -> None:
    with pytest.raises(TypeError, match="not pickled"):
        leave(Key(SECRET))  # type: ignore[operator]


def test_the_fingerprint_tells_keys_apart_and_is_no_part_of_their_numbers() -> None:
    key = Key(SECRET)
    assert key.fingerprint != Key(SECRET[:-1] + b"\x00").fingerprint
    assert len(key.fingerprint) == 32
    # Neither the key's hash nor a block of a stream: those would say more than that it is the key.
    assert not hashlib.sha256(SECRET).hexdigest().startswith(key.fingerprint)
    words = [number.to_bytes(8, "little").hex() for number in islice(key.numbers("x"), 8)]
    assert key.fingerprint[:16] not in words
    assert key == Key(SECRET)
    assert hash(key) == hash(Key(SECRET))
    assert key != Key(SECRET[::-1])


def test_new_keys_have_256_bits_and_differ(tmp_path: Path) -> None:
    first, second = Key.new(), Key.new()
    assert first != second
    first.write(tmp_path / "key")
    assert len((tmp_path / "key").read_text().strip().partition(":")[2]) == 64


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_its_owner_can_read_the_file(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        Key(SECRET).write(tmp_path / "key")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert Key.read(tmp_path / "key") == Key(SECRET)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_it_has_these_permissions_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.fsync

    def fsync(number: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(number).st_mode))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    Key(SECRET).write(tmp_path / "key")
    assert seen == [0o600]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Key(SECRET).write(path)
    with pytest.raises(BadInput, match="never overwritten"):
        Key.new().write(path)
    assert Key.read(path) == Key(SECRET)
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="never overwritten"):
        Key.new().write(dangling)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match="No space left"):
        Key(SECRET).write(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no key file"),
        (b"robustkit-key-1:", "no key file"),
        (b"00112233445566778899aabbccddeeff", "no key file"),
        (b"robustkit-key-1:00112233445566778899aabbccddee", "120 bits"),
        (b"robustkit-key-1:00112233445566778899aabbccddeefg", "no key file"),
        (b"robustkit-key-1:00112233445566778899aabbccddeef", "no key file"),
        (b"robustkit-key-2:" + b"00" * 32, "no key file"),
        (b"\xff\xfe" + b"00" * 32, "no key file"),
        (b"x" * 10**6, "no key file"),
    ],
)
def test_files_that_hold_no_key_are_told_without_repeating_them(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(BadInput, match=said) as raised:
        Key.read(tmp_path / "key")
    assert "112233" not in str(raised.value)
    assert "xxxx" not in str(raised.value)


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="a key file"):
        Key.read(tmp_path / "key")
    with pytest.raises(BadInput, match="a key file"):
        Key.read(tmp_path)
    (tmp_path / "key").touch()
    with pytest.raises(CorruptFile):
        Key.read(tmp_path / "key")


def test_short_secrets_are_refused() -> None:
    with pytest.raises(BadInput, match="120 bits; it must have 128"):
        Key(bytes(15))
    Key(bytes(16))


def test_only_the_key_gives_the_streams_of_examples() -> None:
    ids = torch.arange(5)
    keyed = streams(Key(SECRET), 0, ids)
    assert torch.equal(keyed.bits((4,)), streams(Key(SECRET), 0, ids).bits((4,)))
    for other in (streams(Key(SECRET), 1, ids), streams(Key.new(), 0, ids), streams(None, 0, ids)):
        assert not torch.equal(keyed.bits((4,)), other.bits((4,)))
