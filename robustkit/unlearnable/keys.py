"""The secret that unlearnable data is made with, and the file that keeps it."""

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from robustkit.data.reading import reading
from robustkit.errors import BadInput, CorruptFile
from robustkit.files import write_atomically
from robustkit.randomness import Streams

LEAST_BYTES = 16
_NEW_BYTES = 32
_PREFIX = "robustkit-key-1:"
_LONGEST = 4096
_TWO_64 = 2**64


class Key:
    """A secret of at least 128 bits, and named streams of numbers that only it can give.

    The numbers are HMAC-SHA-256 in counter mode: block i of a stream is the HMAC of the stream's
    name and i under the secret. Streams of different names are independent.

    A key shows its fingerprint and never itself, and refuses to be pickled, so that it leaves its
    file for the memory of one process only.

    Attributes:
        fingerprint: 32 hexadecimal digits by which the key is recognised; they do not tell it.

    Example:
        >>> Key(bytes(range(32)))
        Key(fingerprint='a977ca0a11345e5fe84a82cb612d12b7')
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Args: the secret.

        Raises:
            BadInput: It is shorter than 128 bits.
        """
        if len(secret) < LEAST_BYTES:
            raise BadInput(
                f"The key has {8 * len(secret)} bits; it must have {8 * LEAST_BYTES} or more, or "
                "it can be guessed."
            )
        self._secret = bytes(secret)

    @classmethod
    def new(cls) -> "Key":
        """A fresh key of 256 bits."""
        return cls(secrets.token_bytes(_NEW_BYTES))

    @classmethod
    def read(cls, path: Path) -> "Key":
        """The key in a file that `write` has written.

        Raises:
            MissingFile: There is no such file.
            CorruptFile: It holds no key.
            BadInput: The key is too short, or the file may not be read.
        """
        with reading(path, "a key file"), path.open("rb") as stream:
            text = stream.read(_LONGEST).decode("ascii", "replace").strip()
        try:
            secret = bytes.fromhex(text.removeprefix(_PREFIX))
        except ValueError:
            secret = b""
        # What the file holds is not repeated: it may be a key with a typing error.
        if not text.startswith(_PREFIX) or not secret:
            raise CorruptFile(
                f"{path} is no key file: it must hold one line, {_PREFIX} and at least "
                f"{2 * LEAST_BYTES} hexadecimal digits. Give the file that robustkit wrote."
            )
        return cls(secret)

    def write(self, path: Path) -> None:
        """Keep the key in a new file that only its owner can read.

        Raises:
            BadInput: Something is there already, or writing there is not allowed.
            CannotWrite: The disk is full or failed.
        """
        if path.exists() or path.is_symlink():
            raise BadInput(f"{path} is there already; a key is never overwritten.")
        write_atomically(path, f"{_PREFIX}{self._secret.hex()}\n", mode=0o600)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits by which the key is recognised; they do not tell it."""
        return self._block("fingerprint", 0)[:16].hex()

    def number(self, purpose: str) -> int:
        """One number of 256 bits, to seed other streams with."""
        return int.from_bytes(self._block(f"number {purpose}", 0), "little")

    def numbers(self, purpose: str) -> Iterator[int]:
        """An endless stream of integers, uniform on [0, 2**64)."""
        block = 0
        while True:
            digest = self._block(f"numbers {purpose}", block)
            for start in range(0, len(digest), 8):
                yield int.from_bytes(digest[start : start + 8], "little")
            block += 1

    def __repr__(self) -> str:
        """The fingerprint."""
        return f"Key(fingerprint={self.fingerprint!r})"

    def __eq__(self, other: object) -> bool:
        """Whether both are the same secret."""
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        """Of the fingerprint."""
        return hash(self.fingerprint)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into another process."""
        raise TypeError("A key is not pickled: it would be written where it does not belong.")

    def _block(self, name: str, number: int) -> bytes:
        message = f"robustkit unlearnable 1\x1f{name}\x1f{number}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).digest()


def streams(key: Key | None, seed: int, ids: Tensor) -> Streams:
    """The streams of examples, which nobody can draw who has not got the key.

    Their seed has 64 bits, whatever the key has.

    Args:
        key: Without one the seed is all.
        seed: Of what is no secret.
        ids: (N,) int64 example ids, on the device to compute on.
    """
    secret = seed if key is None else key.number(f"streams {seed}")
    return Streams.of(seed=secret, ids=ids, purpose="unlearnable")


def below(number: int, end: int) -> int:
    """A number of 64 uniform bits as one in [0, end); the bias is at most end / 2**64."""
    return number * end // _TWO_64
