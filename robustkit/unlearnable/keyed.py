"""What only who has the key can look at: images that went through it, and through it wrongly."""

from collections.abc import Callable

import torch

from robustkit.data import LabelledImages
from robustkit.unlearnable.audit import PERMUTED_KEY, SAME_KEY, Material

# Publishes any images under the key of the published set.
Publisher = Callable[[LabelledImages], LabelledImages]


def with_key(
    published: LabelledImages, originals: LabelledImages, test: LabelledImages, publish: Publisher
) -> Material:
    """The images of an audit by who has the key.

    What has learnt the change of each class, and not the classes, is right on test images that went
    through the same change, and names the next class on those that went through that of the next.
    One change for all images leaves nothing to learn but the images: what is lost then is lost to
    blur or noise.

    Args:
        published: The training images as they were published.
        originals: What they were made from, in the same order.
        test: Clean test images.
        publish: Changes images by their labels, as the published ones were.
    """
    next_class = (test.labels + 1) % test.classes
    one_class = torch.zeros_like(originals.labels)
    return Material(
        published=published,
        originals=originals,
        test=test,
        keyed={
            SAME_KEY: publish(test),
            PERMUTED_KEY: publish(test.relabelled(next_class)).relabelled(test.labels),
        },
        universal=publish(originals.relabelled(one_class)).relabelled(originals.labels),
    )
