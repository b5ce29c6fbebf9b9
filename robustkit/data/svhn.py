"""Street View House Numbers, the cropped digits, from their .mat files."""

from pathlib import Path

import numpy as np
import torch

from robustkit.data import class_names
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import Array, ArrayPixels
from robustkit.data.places import first_file, locate
from robustkit.data.reading import reading
from robustkit.errors import CorruptFile

_ZERO = 10


def load_svhn(request: Request) -> LabelledImages:
    """SVHN, (3, 32, 32), splits `test`, `train` and `extra`, from `SPLIT_32x32.mat`.

    The files call the digit 0 by the label 10; here it has the label 0.
    """
    split = request.one_of("test", "train", "extra")
    name = f"{split}_32x32.mat"
    path = locate(
        request, lambda folder: first_file(folder, name), below=(".", "svhn", "SVHN"), files=(name,)
    )
    images, labels = _read(path)
    if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or images.ndim != 4:
        raise CorruptFile(
            f"{path} holds images of shape {images.shape} and type {images.dtype} under 'X'; "
            "expected is uint8 (32, 32, 3, N). Get the file again."
        )
    if labels.dtype.kind not in "iu" or labels.size != images.shape[3]:
        raise CorruptFile(f"{path} does not hold one whole label per image. Get it again.")
    numbers = labels.reshape(-1).astype(np.int64)
    numbers[numbers == _ZERO] = 0
    return LabelledImages(
        ArrayPixels(array=np.ascontiguousarray(images.transpose(3, 2, 0, 1))),
        torch.from_numpy(numbers),
        spec=request.spec,
        split=split,
        class_names=class_names.of("svhn"),
    )


def _read(path: Path) -> tuple[Array, Array]:
    from scipy.io import loadmat

    with reading(path, "a .mat file"), path.open("rb") as stream:
        try:
            found = loadmat(stream, variable_names=("X", "y"))
            return np.asarray(found["X"]), np.asarray(found["y"])
        except OSError:
            raise
        except Exception as error:
            # The reader of scipy fails in many ways on damaged files.
            raise CorruptFile(
                f"{path} cannot be read as a .mat file with X and y: {error}. Get the file again."
            ) from error
