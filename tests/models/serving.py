"""Servers of labels for tests: the one of the documentation, and one that misbehaves on demand."""

import base64
import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "http.md"

# What one request gets instead of labels: it writes to the socket or returns labels.
Act = Callable[["Handler"], "list[Any] | None"]


def documented() -> str:
    """The server of the documentation, without its last line, which starts it."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    head, last = code.rstrip().rsplit("\n", 1)
    assert last == 'http.server.HTTPServer(("localhost", 8000), Victim).serve_forever()'
    return str(head)


@dataclass
class Book:
    """What a server does, and what it was asked.

    Attributes:
        description: What it answers to GET; None for 404.
        acts: For the next POSTs, in order; labels once they are used up.
        images: The images of all POSTs that were read.
        times: When each POST came, and about how many images.
        headers: Of the last request.
        path: Of the last request.
        gets: How many GETs came.
    """

    description: Any = field(default_factory=lambda: {"classes": 10})
    acts: list[Act] = field(default_factory=list)
    images: list[np.ndarray[Any, Any]] = field(default_factory=list)
    times: list[tuple[float, int]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    path: str = ""
    gets: int = 0
    url: str = ""


def brightness(images: np.ndarray[Any, Any]) -> list[int]:
    """The label of each image: ten times its mean."""
    return [min(9, int(10 * image.mean())) for image in images]


class Handler(BaseHTTPRequestHandler):
    """Answers with the brightness, or as the book says."""

    protocol_version = "HTTP/1.1"
    book: Book

    def do_GET(self) -> None:
        self.book.gets += 1
        self.book.headers = dict(self.headers.items())
        if callable(self.book.description):
            self.book.description(self)
        elif self.book.description is None:
            self.reply(b"not here", status=404)
        else:
            self.reply(json.dumps(self.book.description).encode())

    def do_POST(self) -> None:
        self.book.headers, self.book.path = dict(self.headers.items()), self.path
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pixels = np.frombuffer(base64.b64decode(question["data"]), question["dtype"])
        images = pixels.reshape(question["shape"])
        self.book.times.append((time.monotonic(), len(images)))
        self.book.images.append(images)
        labels = self.book.acts.pop(0)(self) if self.book.acts else brightness(images)
        if labels is not None:
            self.reply(json.dumps({"labels": labels, "scores": [[0.1]]}).encode())

    def reply(self, body: bytes, *, status: int = 200, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def says(body: bytes, *, status: int = 200, **headers: str) -> Act:
    """An act: this answer, whatever was asked."""
    return lambda handler: handler.reply(body, status=status, **headers)


def hangs_up(handler: Handler) -> None:
    """An act: the connection ends without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def cuts_short(handler: Handler) -> None:
    """An act: an answer that ends before its length."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"labels": [1')
    handler.close_connection = True


def sleeps(seconds: float) -> Act:
    """An act: no answer for so long, then none."""

    def act(handler: Handler) -> None:
        time.sleep(seconds)
        hangs_up(handler)

    return act


def trickles(handler: Handler) -> None:
    """An act: a byte now and then, so that no single read waits for long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)
    handler.close_connection = True


@contextlib.contextmanager
def serving(
    book: Book, *, host: str = "localhost", context: ssl.SSLContext | None = None
) -> Iterator[Book]:
    """A server that acts as a book says, on a port of its own; over TLS with a context."""
    handler = type("Bound", (Handler,), {"book": book})
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("Server", (ThreadingHTTPServer,), {"address_family": family})
    with kind((host, 0), handler) as server:
        name = f"[{host}]" if ":" in host else host
        book.url = f"http://{name}:{server.server_port}"
        if context is not None:
            book.url = book.url.replace("http", "https")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield book
        finally:
            server.shutdown()
            thread.join()
