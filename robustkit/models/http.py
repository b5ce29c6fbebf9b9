"""A classifier behind an address: it is asked for labels, and nothing else is read.

The protocol is two small JSON messages, described in docs/http.md for those who write the server.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput, ShapeMismatch
from robustkit.models.http_client import PATIENCE, Client, Manners
from robustkit.models.http_protocol import MOST, Description, answered, described, question

# Images in a request, where neither side asks for fewer, and bytes of their pixels.
_BATCH = 64
_BYTES = 2**22


class RemoteLabels(nn.Module):
    """A deployed classifier as a module: (N, C, H, W) images to (N, classes) one-hot rows.

    It holds no weights and gives no scores and no gradients. Nothing is sent before the first
    question. Images with NaN or infinity are not sent and get no answer, a row of NaN.

    Attributes:
        labels_only: True: no view of it grants more than labels.
    """

    labels_only: ClassVar[bool] = True

    def __init__(
        self,
        url: str,
        *,
        classes: int | None = None,
        batch: int | None = None,
        manners: Manners | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: The address.
            classes: How many labels there are; None where the server says so.
            batch: Images in a request at most.
            manners: How the server is asked.

        Raises:
            BadInput: The address is none.
        """
        super().__init__()
        self.url = url
        self._classes, self._batch = classes, batch
        self._client = Client(url, manners or Manners())
        # A request about more images than a second allows would be over the rate by itself.
        rate = self._client.rate
        self._per_second = None if rate is None else max(1, int(rate))

    @functools.cached_property
    def description(self) -> Description:
        """What the server says about itself, completed by the options; asked for once.

        Raises:
            BadInput: There is no such server, or it does not answer as agreed.
        """
        found = described(self._client, self._client.get())
        if found.classes is not None and self._classes not in (None, found.classes):
            raise BadInput(
                f"{self.url} says that it has {found.classes} classes, and classes="
                f"{self._classes} was given. Leave it out."
            )
        return found

    @property
    def classes(self) -> int:
        """How many labels there are.

        Raises:
            BadInput: Neither the server nor the caller says so.
        """
        found = self.description.classes or self._classes
        if found is None:
            raise BadInput(
                f"{self.url} does not say how many classes it has. Let it answer GET with "
                f'{{"classes": 10}}, or give {self.url}#classes=10.'
            )
        return found

    @property
    def batch(self) -> int:
        """Images in one request at most."""
        limits = (self._batch or _BATCH, self.description.batch, self._per_second)
        return min(limit for limit in limits if limit is not None)

    @property
    def identity(self) -> str:
        """SHA-256 of the address and of the model that the server names, in hexadecimal."""
        said = self.description
        known = [self.url, said.name, said.version, self.classes, said.shape]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def extra_repr(self) -> str:
        """The address."""
        return repr(self.url)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, classes) float32: 1 for the label of each image and 0 elsewhere; no graph.

        Raises:
            BadInput: The server does not take such images, or does not answer as agreed.
            ServerLost: A server that had answered does so no longer.
        """
        if inputs.ndim != 4 or not len(inputs):
            raise ShapeMismatch(f"Images are (N, C, H, W), N > 0, not {tuple(inputs.shape)}.")
        shape = self.description.shape
        if shape is not None and shape != tuple(inputs.shape[1:]):
            raise BadInput(
                f"{self.url} takes images of {_sides(shape)}, not of {_sides(inputs.shape[1:])} "
                "(channels x height x width)."
            )
        asked = inputs.detach().to("cpu", torch.float32)
        finite = asked.isfinite().flatten(1).all(1)
        answers = torch.full((len(asked), self.classes), torch.nan)
        if bool(finite.any()):
            labels = self._labels(asked[finite].contiguous())
            answers[finite] = F.one_hot(labels, self.classes).to(torch.float32)
        return answers.to(inputs.device)

    def _labels(self, images: Tensor) -> Tensor:
        """(N,) int64 for (N, C, H, W) float32 images on the CPU; in several requests if need be."""
        room = max(1, _BYTES // (4 * images[0].numel()))
        labels: list[int] = []
        for part in torch.split(images, min(self.batch, room)):
            reply = self._client.post(question(part), images=len(part))
            labels += answered(self._client, reply, images=len(part), classes=self.classes)
            self._client.trusted = True
        return torch.tensor(labels)


def over_http(*, name: str, pretrained: bool = True) -> RemoteLabels:
    """A classifier behind `http://host:port[/path]`; labels only, so only attacks on labels fit.

    The server answers a POST of images with one label per image; see the page "Attack a deployed
    classifier" of the documentation. Options stand behind a `#`, which is never sent, separated by
    commas: `http://localhost:8000#rate=50,timeout=10`.

        classes   how many there are, where the server does not say so
        batch     images per request at most (64, or fewer where the server says so)
        rate      images per second at most, retries included (any); shared under torchrun
        timeout   seconds that one try may take, up to the answer's last byte (30)
        retries   tries after a failure that may pass; all together are one query (5)
        pause     seconds before the first retry, doubled before each further one (0.5)

    A token is taken from the environment variable ROBUSTKIT_HTTP_TOKEN. Redirects are not followed
    and proxies are not used.

    Args:
        name: What stands behind `http:`.
        pretrained: False is refused: nothing can be loaded into it.

    Raises:
        BadInput: The address or an option is none.
    """
    return _over("http", name, pretrained=pretrained)


def over_https(*, name: str, pretrained: bool = True) -> RemoteLabels:
    """As `http`, over TLS; the certificate is verified.

    Args:
        name: What stands behind `https:`.
        pretrained: False is refused: nothing can be loaded into it.

    Raises:
        BadInput: The address or an option is none.
    """
    return _over("https", name, pretrained=pretrained)


# The smallest and the largest allowed value of each option, and whether it must be whole.
_OPTIONS: Mapping[str, tuple[float, float, bool]] = {
    "classes": (1, MOST, True),
    "batch": (1, MOST, True),
    "rate": (1e-3, 1e6, False),
    "timeout": (1e-3, 86_400, False),
    "retries": (0, 1000, True),
    "pause": (0, PATIENCE, False),
}


def _over(scheme: str, name: str, *, pretrained: bool) -> RemoteLabels:
    url, _, fragment = f"{scheme}:{name}".partition("#")
    if not pretrained:
        raise BadInput(f"{url} is a deployed classifier: no weights can be loaded into it.")
    given = dict(_option(part) for part in fragment.split(",")) if fragment else {}
    classes, batch = given.pop("classes", None), given.pop("batch", None)
    manners = replace(Manners(), **given)
    return RemoteLabels(url, classes=classes, batch=batch, manners=manners)


def _option(text: str) -> tuple[str, Any]:
    """`name=number` as both; checked."""
    key, _, value = text.partition("=")
    if key not in _OPTIONS:
        raise BadInput(
            f"{text!r} is no option of an address. Write #name=number, separated by commas; there "
            f"are: {', '.join(_OPTIONS)}."
        )
    least, most, whole = _OPTIONS[key]
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        kind = "a whole number" if whole else "a number"
        raise BadInput(f"{text!r} is not allowed: {key} is {kind} from {least:g} to {most:,.0f}.")
    return key, number


def _sides(shape: "torch.Size | tuple[int, ...]") -> str:
    return " x ".join(map(str, shape))
