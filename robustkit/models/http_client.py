"""Talking to one server: time limits, another try after a failure, and no more than a given rate.

Nothing is followed, guessed or kept: a redirect is an error, a body has a largest size, and what
goes wrong becomes one clear message.
"""

import http.client
import os
import ssl
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from robustkit.errors import BadInput, DeviceLost, RobustkitError

# A token that the server may ask for; it never stands in a command or in a report.
TOKEN = "ROBUSTKIT_HTTP_TOKEN"

# Bytes of an answer that are read at most.
_MOST = 2**20
# What may be over in a moment: time-outs, too many requests, a server that restarts.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
# Seconds to wait at most before another try, whatever the server asks for.
_PATIENCE = 60.0


class ServerLost(DeviceLost):
    """A server that had answered does so no longer, or not as agreed; a run can be resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """How a server is asked.

    Attributes:
        timeout: Seconds that one try may take.
        retries: How often a request is sent again after a failure that may pass.
        pause: Seconds before the first retry; doubled before each further one.
        rate: Images per second at most, retries included; None for any number.
    """

    timeout: float = 30.0
    retries: int = 5
    pause: float = 0.5
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server sent back.

    Attributes:
        status: The HTTP status.
        headers: The first value of each header, names in lower case.
        body: The whole body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """One address, asked over one connection that is kept open.

    Attributes:
        url: The address, without a fragment.
        trusted: Set once the server has answered as agreed: from then on a failure is the server's
            and no bad input, and a run can be resumed after it.
    """

    def __init__(self, url: str, manners: Manners) -> None:
        """Nothing is sent yet.

        Raises:
            BadInput: The address is none, or holds a user name or password.
        """
        self.url = url
        self.trusted = False
        self._manners = manners
        self._met = False
        self._free = 0.0
        self._connection, self._target = _connection(url, manners.timeout)
        weakref.finalize(self, self._connection.close)

    def get(self) -> Reply:
        """What the server says about itself."""
        return self._exchange("GET", None, 0)

    def post(self, body: bytes, *, images: int) -> Reply:
        """The answer to a body that asks about so many images."""
        return self._exchange("POST", body, images)

    def fault(self, what: str) -> RobustkitError:
        """The error for something that the server did: `{url} {what}`."""
        return (ServerLost if self.trusted else BadInput)(f"{self.url} {what}")

    def _exchange(self, method: str, body: bytes | None, images: int) -> Reply:
        """One request, sent again while its failure may pass.

        Raises:
            BadInput: There is no such server, or it gave no answer.
            ServerLost: The same of a server that had answered before.
        """
        tries, reason, wait = self._manners.retries + 1, "", 0.0
        for attempt in range(tries):
            time.sleep(wait)
            self._pace(images)
            wait = min(self._manners.pause * 2**attempt, _PATIENCE)
            try:
                reply = self._once(method, body)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                reason = _told(error)
                if not self._met or isinstance(error, ssl.SSLCertVerificationError):
                    raise self.fault(f"cannot be reached: {reason}. Is the server running?") from (
                        error
                    )
                continue
            if reply.status not in _PASSING:
                return reply
            reason = f"status {reply.status}, {excerpt(reply.body)}"
            wait = max(wait, _asked_wait(reply))
        raise self.fault(
            f"gave no answer in {tries} tries of at most {self._manners.timeout:g} s; the last "
            f"ended with: {reason}."
        )

    def _pace(self, images: int) -> None:
        """Wait until the rate allows a request about so many images."""
        if self._manners.rate is None:
            return
        time.sleep(max(0.0, self._free - time.monotonic()))
        self._free = time.monotonic() + images / self._manners.rate

    def _once(self, method: str, body: bytes | None) -> Reply:
        deadline = time.monotonic() + self._manners.timeout
        self._connection.request(method, self._target, body, _headers(body))
        with self._connection.getresponse() as response:
            self._met = True
            content = self._content(response, deadline)
        return Reply(
            response.status, {key.lower(): value for key, value in response.getheaders()}, content
        )

    def _content(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        content = bytearray()
        while len(content) <= _MOST:
            part = response.read1(_MOST)
            if not part:
                break
            content += part
            # The socket's own limit starts anew with every byte.
            if time.monotonic() > deadline:
                raise TimeoutError("the answer took too long")
        else:
            self._connection.close()
            raise self.fault(f"sent an answer of more than {_MOST:,} bytes; labels need far fewer.")
        if response.length:
            raise http.client.IncompleteRead(bytes(content), response.length)
        return bytes(content)


def excerpt(body: bytes) -> str:
    """The beginning of an answer, in one line that cannot steer a terminal."""
    return ascii(body[:80].decode("utf-8", "replace")) if body else "no body"


def _connection(url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(f"{url!r} is no address: {error}. Give http://host:port.") from error
    if not host or not url.isascii() or any(character <= " " for character in url):
        raise BadInput(f"{url!r} is no address. Give http://host:port or https://host:port/path.")
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            "An address with a user name or a password would show it in the report. "
            f"Give a token in the environment variable {TOKEN}."
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context), target
    return http.client.HTTPConnection(host, port, timeout=timeout), target


def _headers(body: bytes | None) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "robustkit"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    token = os.environ.get(TOKEN)
    if token:
        if not token.isascii() or not token.isprintable():
            raise BadInput(
                f"The environment variable {TOKEN} holds no token: it is not plain text."
            )
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _asked_wait(reply: Reply) -> float:
    """Seconds that the server asks to be left alone; 0 where it does not say so in seconds."""
    text = reply.headers.get("retry-after", "")
    return min(float(text), _PATIENCE) if text.isdecimal() else 0.0


def _told(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
