"""The handwritten digits that scikit-learn carries: 1,797 grey images of 8 x 8."""

import gzip

import numpy as np
import torch

from robustkit.data.carried import carried_by
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import ArrayPixels
from robustkit.data.reading import reading

_TRAIN = 1437
_PIXELS = 8 * 8


def load_digits(request: Request) -> LabelledImages:
    """The digits, (1, 8, 8), values 0 to 16 divided by 16.

    The set comes without parts. Here `train` is its first 1,437 images and `test` its last 360, in
    stored order and never shuffled: neighbours tend to be by one writer, and a shuffle would put
    each writer on both sides.

    Raises:
        MissingExtra: The package that carries them is not installed.
    """
    split = request.one_of("test", "train")
    package = carried_by("sklearn", install="scikit-learn")
    path = package / "datasets" / "data" / "digits.csv.gz"
    with reading(path, "the table of digits"), gzip.open(path, "rt") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    part = table[:_TRAIN] if split == "train" else table[_TRAIN:]
    return LabelledImages(
        ArrayPixels(array=(part[:, :_PIXELS] / 16).reshape(-1, 1, 8, 8)),
        torch.from_numpy(part[:, _PIXELS].astype(np.int64)),
        spec=request.spec,
        split=split,
        class_names=[str(digit) for digit in range(10)],
    )
