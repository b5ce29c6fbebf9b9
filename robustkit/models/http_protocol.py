"""The two messages between robustkit and a deployed classifier, as docs/http.md describes them."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustkit.models.http_client import TOKEN, Client, Reply, excerpt

HINT = "What a server must answer stands in the page 'Attack a deployed classifier'."

# Numbers that a server may say of itself: more would only fill the memory.
MOST = 100_000

# What servers answer that have nothing to say to GET.
_NOT_OFFERED = frozenset({404, 405, 501})
# What to do about some refusals.
_ADVICE = {
    401: f" Give its token in the environment variable {TOKEN}.",
    403: f" Give its token in the environment variable {TOKEN}.",
    413: " Ask about fewer images at a time: #batch=16 behind the address.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a server says about itself; None for what it does not say.

    Attributes:
        name: What it calls its model.
        version: Of that model; another version is another model.
        classes: How many labels there are: 0 to classes - 1.
        shape: (C, H, W) of the images it takes.
        batch: Images it takes in one request.
    """

    name: str | None = None
    version: str | None = None
    classes: int | None = None
    shape: tuple[int, ...] | None = None
    batch: int | None = None


def question(images: Tensor) -> bytes:
    """(N, C, H, W) float32 images as JSON: little-endian in base64, so that every bit arrives."""
    pixels = images.numpy().astype("<f4", copy=False).tobytes()
    question = {
        "shape": list(images.shape),
        "dtype": "<f4",
        "data": base64.b64encode(pixels).decode(),
    }
    return json.dumps(question).encode()


def described(client: Client, reply: Reply) -> Description:
    """What an answer to GET says.

    Raises:
        BadInput: It is an error or a redirect, or says something else than what the protocol knows.
    """
    if reply.status in _NOT_OFFERED:
        return Description()
    _check_status(client, reply)
    table = _parsed(reply.body)
    if table is None:
        # A page for people: the address is right, and nothing is offered.
        return Description()
    said = {key: table.get(key) for key in _KINDS}
    for key, (fits, wanted) in _KINDS.items():
        if said[key] is not None and not fits(said[key]):
            raise client.fault(f"says that {key} is {str(said[key])[:40]!a}; it must be {wanted}.")
    shape = said.pop("shape")
    return Description(**said, shape=None if shape is None else tuple(shape))


def answered(client: Client, reply: Reply, *, images: int, classes: int) -> list[int]:
    """The labels in an answer to so many images.

    Raises:
        BadInput, ServerLost: It is no such answer; see `Client.fault`.
    """
    _check_status(client, reply)
    table = _parsed(reply.body)
    if table is None or "labels" not in table:
        raise client.fault(
            f'answered {excerpt(reply.body)}, and not JSON such as {{"labels": [3]}}. {HINT}'
        )
    labels = table["labels"]
    if not isinstance(labels, list) or len(labels) != images:
        given = f"{len(labels)} labels" if isinstance(labels, list) else "no list of labels"
        raise client.fault(f"was asked about {images} images and answered {given}. {HINT}")
    for label in labels:
        if type(label) is not int or not 0 <= label < classes:
            raise client.fault(
                f"answered the label {str(label)[:40]!a}; labels are integers from 0 to "
                f"{classes - 1}. {HINT}"
            )
    return labels


def _check_status(client: Client, reply: Reply) -> None:
    if 300 <= reply.status < 400:
        to = reply.headers.get("location", "nowhere")[:200]
        raise client.fault(f"redirects to {to!a}. Redirects are not followed: give that address.")
    if reply.status != 200:
        advice = _ADVICE.get(reply.status, "")
        raise client.fault(f"refuses with status {reply.status}: {excerpt(reply.body)}.{advice}")


def _parsed(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body; None if it is none."""
    try:
        table = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _sizes(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_count, value))


def _words(value: object) -> bool:
    return isinstance(value, str)


_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "name": (_words, "a string"),
    "version": (_words, "a string"),
    "classes": (_count, f"an integer from 1 to {MOST:,}"),
    "shape": (_sizes, "[channels, height, width]"),
    "batch": (_count, f"an integer from 1 to {MOST:,}"),
}
