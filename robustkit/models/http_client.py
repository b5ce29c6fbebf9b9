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
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from robustkit.errors import BadInput, DeviceLost, RobustkitError
from robustkit.models.http_connection import Connection

# A token that the server may ask for; it never stands in a command or in a report.
TOKEN = "ROBUSTKIT_HTTP_TOKEN"

# Bytes of an answer that are read at most.
_MOST = 2**20
# What may be over in a moment: time-outs, too many requests, a server that restarts.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
# Seconds to wait at most before another try, whatever the server asks for.
PATIENCE = 60.0
# Characters of what went wrong that are told; a server may send any number.
_TOLD = 200


class ServerLost(DeviceLost):
    """A server that had answered does so no longer, or not as agreed; a run can be resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """How a server is asked.

    Attributes:
        timeout: Seconds that one try may take, from connecting to the last byte of the answer.
        retries: How often a request is sent again after a failure that may pass.
        pause: Seconds before the first retry; doubled before each further one.
        rate: Images per second at most, retries included; None for any number. Processes that
            `torchrun` started share it.
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
        headers: The last value of each header, names in lower case.
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
        rate: Images per second at most that this process asks about; None for any number.
    """

    def __init__(self, url: str, manners: Manners) -> None:
        """Nothing is sent yet.

        Raises:
            BadInput: The address is none, or holds a user name or password.
        """
        self.url = url
        self.trusted = False
        self.rate = None if manners.rate is None else manners.rate / _processes()
        self._manners = manners
        self._met = False
        self._free = 0.0
        self._connection, self._target = _connection(url)
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
            wait = min(self._manners.pause * 2.0 ** min(attempt, 64), PATIENCE)
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
        if self.rate is None:
            return
        time.sleep(max(0.0, self._free - time.monotonic()))
        self._free = time.monotonic() + images / self.rate

    def _once(self, method: str, body: bytes | None) -> Reply:
        self._connection.ends = time.monotonic() + self._manners.timeout
        self._connection.request(method, self._target, body, _headers(body))
        with self._connection.getresponse() as response:
            self._met = True
            content = self._content(response)
        return Reply(
            response.status, {key.lower(): value for key, value in response.getheaders()}, content
        )

    def _content(self, response: http.client.HTTPResponse) -> bytes:
        content = bytearray()
        while len(content) <= _MOST:
            part = response.read1(_MOST)
            if not part:
                break
            content += part
        else:
            self._connection.close()
            raise self.fault(f"sent an answer of more than {_MOST:,} bytes; labels need far fewer.")
        if response.length:
            raise http.client.IncompleteRead(bytes(content), response.length)
        return bytes(content)


def excerpt(body: bytes) -> str:
    """The beginning of an answer, in one line that cannot steer a terminal."""
    return ascii(body[:80].decode("utf-8", "replace")) if body else "no body"


def _connection(url: str) -> tuple[Connection, str]:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadInput(f"{url!r} is no address: it holds spaces or other than plain characters.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadInput(f"{url!r} is no address: {error}. Give http://host:port.") from error
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            "An address with a user name or a password would show it in the report. "
            f"Give a token in the environment variable {TOKEN}."
        )
    if not all(0 < len(part) < 64 for part in host.removesuffix(".").split(".")):
        raise BadInput(
            f"{url!r} is no address: the host or a part of its name is empty or has more than 63 "
            "characters. Give http://host:port or https://host:port/path."
        )
    context = ssl.create_default_context() if parts.scheme == "https" else None
    if port is None:
        # Not left to http.client, which would take the end of an IPv6 address for it.
        port = http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Connection(host, port, context=context), target


def _processes() -> int:
    """How many processes `torchrun` started together, this one included."""
    told = os.environ.get("WORLD_SIZE", "")
    return max(1, int(told)) if told.isdecimal() else 1


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
    """Seconds, or until when, the server asks to be left alone; 0 where it does not say so."""
    text = reply.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return min(float(text), PATIENCE)
    try:
        until = parsedate_to_datetime(text)
        # Dates of HTTP are in UTC where they do not say so.
        left = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(left, 0.0), PATIENCE)


def _told(error: Exception) -> str:
    """What went wrong, in one line that cannot steer a terminal: a server may have worded it."""
    text = ascii(str(error).strip().rstrip(".")[:_TOLD])[1:-1]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
