"""A connection on which all waiting for one answer ends at one moment.

The limit of a socket starts anew with every byte, and so does that of `http.client`.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Connection(http.client.HTTPConnection):
    """A connection to one server, opened by the first request.

    Attributes:
        ends: When waiting is over, by the clock of `time.monotonic`: for the server to accept, for
            TLS, and for all that is sent and received. Looking up a name has limits of its own.
    """

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext | None) -> None:
        """Args: whom to connect to, and how TLS is spoken; None for not at all."""
        super().__init__(host, port)
        self.ends = 0.0
        self._context = context
        if context is not None:
            self.default_port = http.client.HTTPS_PORT

    def left(self) -> float:
        """Seconds that are left, more than 0.

        Raises:
            TimeoutError: None are.
        """
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def connect(self) -> None:
        """Open the connection.

        Raises:
            OSError: No address of the host answers in time.
        """
        plain = self._reached()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            self.sock = _Timed(plain, self.left)
            return
        # A handshake is bounded as a whole.
        plain.settimeout(self.left())
        secured = self._context.wrap_socket(plain, server_hostname=self.host)
        self.sock = _Timed(secured, self.left)

    def _reached(self) -> socket.socket:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        failure: OSError = OSError("the host has no address")
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            # One that is dead must leave time for the others.
            limit = self.left() / (len(found) - tried)
            try:
                return _opened(family, kind, protocol, address, limit)
            except OSError as error:
                failure = error
        raise failure


def _opened(
    family: int, kind: int, protocol: int, address: tuple[object, ...], limit: float
) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        opened.settimeout(limit)
        opened.connect(address)
    except BaseException:
        opened.close()
        raise
    return opened


class _Timed:
    """What `http.client` needs of a socket."""

    def __init__(self, inner: socket.socket, left: Callable[[], float]) -> None:
        self._inner = inner
        self._left = left

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._inner.settimeout(self._left())
            rest = rest[self._inner.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reads(self._inner, self._left))

    def close(self) -> None:
        self._inner.close()


class _Reads(io.RawIOBase):
    """What a socket receives."""

    def __init__(self, inner: socket.socket, left: Callable[[], float]) -> None:
        # It keeps the socket open for the rest of an answer after which the connection is closed.
        self._file = inner.makefile("rb", buffering=0)
        self._inner = inner
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._inner.settimeout(self._left())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
