"""The handwritten digits that scikit-learn carries: 1,797 grey images of 8 x 8."""

import numpy as np
import torch

from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import ArrayPixels

_TRAIN = 1437


def load_digits(request: Request) -> LabelledImages:
    """The digits, (1, 8, 8), values 0 to 16 divided by 16.

    The set comes without parts. Here `train` is its first 1,437 images and `test` its last 360, in
    stored order and never shuffled: neighbours tend to be by one writer, and a shuffle would put
    each writer on both sides.
    """
    from sklearn.datasets import load_digits as stored_digits

    split = request.one_of("test", "train")
    images, labels = stored_digits(return_X_y=True)
    part = slice(0, _TRAIN) if split == "train" else slice(_TRAIN, None)
    inputs = (images[part] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return LabelledImages(
        ArrayPixels(array=inputs),
        torch.from_numpy(labels[part]),
        spec=request.spec,
        split=split,
        class_names=[str(digit) for digit in range(10)],
    )
