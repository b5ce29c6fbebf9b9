"""The connection to a deployed classifier: where it leads, how long it waits, and TLS."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models import load
from robustkit.models.http_client import Client, Manners
from tests.models.serving import Act, Book, Handler, brightness, serving

IMAGES = torch.full((2, 1, 2, 2), 0.35)


def drips(handler: Handler) -> None:
    """An act: a header without an end, a byte now and then."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(100):
            handler.connection.sendall(b"x")
            time.sleep(0.05)


def continues(handler: Handler) -> None:
    """An act: to be continued, for ever."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        for _ in range(100):
            handler.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.05)


@pytest.mark.parametrize("act", [drips, continues])
def test_one_try_ends_in_time_whatever_it_waits_for(act: Act) -> None:
    with serving(Book(acts=[act])) as book:
        start = time.monotonic()
        with pytest.raises(BadInput, match=r"1 tries of at most 0\.4 s.*TimeoutError: timed"):
            load(book.url + "#timeout=0.4,retries=0")(IMAGES)
        # Either would take five seconds.
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing(scheme: str) -> None:
    with socket.create_server(("localhost", 0)) as silent:
        url = f"{scheme}://localhost:{silent.getsockname()[1]}"
        client = Client(url, Manners(timeout=0.3))
        start = time.monotonic()
        with pytest.raises(BadInput, match="cannot be reached: TimeoutError"):
            client.get()
        # A question too large for any buffer, which nobody reads.
        with pytest.raises(BadInput, match="cannot be reached: TimeoutError"):
            client.post(bytes(2**25), images=1)
        assert time.monotonic() - start < 3


def test_addresses_of_one_host_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Book()) as book, socket.create_server(("localhost", 0), backlog=0) as full:
        taken = [_knocks(full) for _ in range(3)]
        good = int(book.url.rpartition(":")[2])
        told = socket.getaddrinfo("127.0.0.1", good, type=socket.SOCK_STREAM)
        dead = [(*told[0][:4], full.getsockname())]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: dead + told)
        start = time.monotonic()
        assert load(book.url + "#timeout=1,retries=0")(IMAGES).argmax(1).tolist() == [3, 3]
        assert 0.4 < time.monotonic() - start < 3
        for knock in taken:
            knock.close()


def _knocks(server: socket.socket) -> socket.socket:
    """A connection that waits to be accepted."""
    knock = socket.socket()
    knock.setblocking(False)
    knock.connect_ex(server.getsockname())
    return knock


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://[::1]/x", ("::1", 80)),
        ("https://[::1]", ("::1", 443)),
        ("http://[2001:db8::abcd]", ("2001:db8::abcd", 80)),
        ("http://[2001:db8::abcd]:81/", ("2001:db8::abcd", 81)),
        ("http://host", ("host", 80)),
        ("http://host:/", ("host", 80)),
        ("https://host:444/", ("host", 444)),
    ],
)
def test_where_an_address_leads(
    url: str, where: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def look(host: str, port: int, *_: object, **__: object) -> None:
        asked.append((host, port))
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", look)
    with pytest.raises(BadInput, match="cannot be reached: gaierror"):
        load(url)(IMAGES)
    assert asked == [where]


def test_an_address_of_six_bytes_and_more() -> None:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6)).close()
        except OSError:
            pytest.skip("no IPv6 here")
        with serving(Book(), host="::1") as book:
            assert book.url.startswith("http://[::1]:")
            assert load(book.url)(IMAGES).argmax(1).tolist() == [3, 3]
            assert book.headers["Host"] == book.url.removeprefix("http://")


def garbles(handler: Handler) -> None:
    """An act: no HTTP, but what would clear a terminal."""
    handler.close_connection = True
    handler.connection.sendall(b"\x1b[2J\x9b2Jowned\x07" * 1000 + b"\r\n\r\n")


def test_nothing_that_a_server_says_steers_a_terminal() -> None:
    with serving(Book(acts=[garbles])) as book, pytest.raises(BadInput) as raised:
        load(book.url + "#retries=0")(IMAGES)
    text = str(raised.value)
    assert r"BadStatusLine: \x1b[2J\x9b2Jowned\x07" in text
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 2000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for localhost, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    words = "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    words += f" -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {path} -out -"
    made = subprocess.run(words.split(), capture_output=True, check=True)
    with path.open("ab") as file:
        file.write(made.stdout)
    return path


def test_tls_with_a_certificate_that_is_known(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    inputs = torch.rand(3, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with serving(Book(acts=[drips]), context=context) as book:
        with pytest.raises(BadInput, match="cannot be reached: SSLCertVerificationError"):
            load(book.url)(inputs)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        start = time.monotonic()
        with pytest.raises(BadInput, match=r"TimeoutError: .*timed out"):
            load(book.url + "#timeout=1,retries=0")(inputs)
        assert time.monotonic() - start < 4
        assert load(book.url)(inputs).argmax(1).tolist() == brightness(inputs.numpy())
        assert book.images[-1].tobytes() == inputs.numpy().tobytes()
        assert book.headers["Host"] == book.url.removeprefix("https://")
