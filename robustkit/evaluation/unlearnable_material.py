"""The images of an audit: checked, in one order, and compared."""

import torch

from robustkit.data import LabelledImages
from robustkit.data.computing import as_bytes, computed
from robustkit.errors import BadInput
from robustkit.report import Distortion
from robustkit.unlearnable.audit import Material
from robustkit.unlearnable.distortion import distortion
from robustkit.unlearnable.keyed import Publisher, with_key


def material_of(
    published: LabelledImages,
    originals: LabelledImages,
    test: LabelledImages,
    publish: Publisher | None,
) -> Material:
    """The images, checked and in one order.

    Args:
        published: The training images as they were published.
        originals: What they were made from, and possibly more.
        test: Clean test images.
        publish: Changes other images as the published ones were, if that is known.

    Raises:
        BadInput: They do not belong together.
    """
    if len(test) < 2:
        raise BadInput("An audit needs at least 2 test images: one to choose by, one to score on.")
    same = aligned(originals, published)
    for images, what in ((same, "originals"), (test, "test images")):
        if images.shape != published.shape or images.classes != published.classes:
            raise BadInput(
                f"The published images of {published.spec!r} have the shape {published.shape} and "
                f"{published.classes} classes, the {what} of {images.spec!r} have {images.shape} "
                f"and {images.classes}. Give those that they were made from: --clean."
            )
    if not torch.equal(same.labels, published.labels):
        wrong = int((same.labels != published.labels).sum())
        raise BadInput(
            f"{wrong} of {len(published)} published images have another label than in "
            f"{originals.spec!r}. Give the set that they were made from: --clean."
        )
    if publish is None:
        return Material(published=published, originals=same, test=test)
    return with_key(published, same, test, publish)


def aligned(images: LabelledImages, other: LabelledImages) -> LabelledImages:
    """The images with the ids of another set, in its order.

    Raises:
        BadInput: Some of them are not there.
    """
    places = {id_: place for place, id_ in enumerate(images.ids.tolist())}
    missing = [id_ for id_ in other.ids.tolist() if id_ not in places]
    if missing:
        raise BadInput(
            f"{len(missing)} of {len(other)} published images are not in {images.spec!r}, split "
            f"{images.split!r}: the first has the id {missing[0]}. Give the set that they were "
            "made from: --clean."
        )
    return images.take([places[id_] for id_ in other.ids.tolist()])


def distortion_of(material: Material) -> Distortion:
    """How much the published images differ; rounding the originals to bytes is no difference."""
    originals, published = (
        computed(images, lambda stored, _: as_bytes(stored), spec=images.spec)
        for images in (material.originals, material.published)
    )
    return distortion(originals, published, torch.ones(len(published), dtype=torch.bool))
