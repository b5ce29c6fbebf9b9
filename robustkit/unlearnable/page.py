"""A published set beside its originals, on one page that stays with its publisher."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup
from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.files import write_atomically
from robustkit.report import words
from robustkit.report.html import page_environment, policy, resource
from robustkit.report.pictures import data_uri, difference
from robustkit.unlearnable.distortion import linf, psnr, ssim
from robustkit.unlearnable.manifest import Manifest
from robustkit.unlearnable.releasing import in_bytes

MOST_CLASSES = 100
_SMALL = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    """One class."""

    name: str
    id: int
    images: tuple[tuple[str, str], ...]
    factor: str
    psnr: str
    ssim: float
    linf: float


def place(folder: Path) -> Path:
    """Where the page of a published folder lies: beside it, because it must not be published."""
    return folder.with_name(f"{folder.name}.private.html")


def write_page(
    path: Path, manifest: Manifest, clean: LabelledImages, published: LabelledImages
) -> None:
    """Write the page, whole or not at all.

    It holds the first image of every class, the original beside what was published of it. One such
    pair of a class is enough to undo a filter: the page is the publisher's own.

    Args:
        path: Where to.
        manifest: Of the set.
        clean: The originals, in the same order.
        published: What was made of them.

    Raises:
        BadInput: Writing there is not allowed.
        CannotWrite: The disk is full or failed.
    """
    # Nobody else on the machine need read it.
    write_atomically(path, render(manifest, clean, published), mode=0o600)


def render(manifest: Manifest, clean: LabelledImages, published: LabelledImages) -> str:
    """The page; every string in it is escaped. See `write_page`."""
    style = resource("page.css.jinja")
    template = files("robustkit.unlearnable").joinpath("page.html.jinja")
    original = in_bytes(clean)
    rows = _first_of_each(clean.labels)[:MOST_CLASSES]
    return (
        page_environment()
        .from_string(template.read_text(encoding="utf-8"))
        .render(
            manifest=manifest,
            style=Markup(style),  # our own file
            policy=policy(style),
            cards=[_card(original, published, row) for row in rows],
            more=max(0, clean.classes - len(rows)),
            small=max(clean.shape[1:]) <= _SMALL,
            words=words,
        )
    )


def _first_of_each(labels: Tensor) -> list[int]:
    first: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        first.setdefault(label, row)
    return [first[label] for label in sorted(first)]


def _card(clean: LabelledImages, published: LabelledImages, row: int) -> _Card:
    old, new = clean.inputs([row]), published.inputs([row])
    shown, factor = difference(old[0], new[0])
    decibels = float(psnr(old, new))
    return _Card(
        name=clean.class_names[int(clean.labels[row])],
        id=int(clean.ids[row]),
        images=(
            ("Original", data_uri(old[0])),
            ("Published", data_uri(new[0])),
            ("Difference", data_uri(shown)),
        ),
        factor=f"{factor:.1f}",
        psnr="identical" if decibels == float("inf") else f"{decibels:.1f} dB",
        ssim=float(ssim(old, new)),
        linf=float(linf(old, new)),
    )
