"""The few real images that the Foolbox package carries: real input without any download."""

from typing import Literal

import torch

from robustkit.data import class_names
from robustkit.data.carried import carried_by
from robustkit.data.labelled_images import LabelledImages
from robustkit.data.loading import Request
from robustkit.data.pixels import FilePixels, Frame
from robustkit.data.reading import reading
from robustkit.errors import MissingFile

_Mode = Literal["L", "RGB"]

# The prefix of the file names, the channels and how a file becomes an image of the set's size.
_SETS: dict[str, tuple[str, _Mode, Frame]] = {
    "cifar10": ("cifar10", "RGB", Frame(height=32, width=32)),
    "cifar100": ("cifar100", "RGB", Frame(height=32, width=32)),
    "mnist": ("mnist", "L", Frame(height=28, width=28)),
    "fashion-mnist": ("fashionMNIST", "L", Frame(height=28, width=28)),
    "imagenet": ("imagenet", "RGB", Frame(height=224, width=224, crop_from=256)),
}


def load_samples(request: Request) -> LabelledImages:
    """Twenty images of `samples:SET`, all of its test (ImageNet: validation) part.

    ImageNet's are stored as photographs; they are shown as its models are commonly fed: the shorter
    side scaled to 256 pixels and the centre 224 x 224 cut out.

    Raises:
        UnknownName: Another split than `test`.
        MissingExtra: The package that carries them is not installed.
    """
    request.one_of("test")
    name = request.spec.partition(":")[2]
    prefix, mode, frame = _SETS[name]
    folder = carried_by("foolbox", install="foolbox") / "data"
    # NAME_INDEX_LABEL.EXTENSION; the index has two digits, so that names sort in stored order.
    with reading(folder, "the folder of sample images"):
        paths = tuple(sorted(folder.glob(f"{prefix}_[0-9][0-9]_*")))
    if not paths:
        raise MissingFile(f"{folder} holds no {prefix}_* images. Install foolbox again.")
    return LabelledImages(
        FilePixels(paths=paths, mode=mode, frame=frame),
        torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths]),
        spec=request.spec,
        class_names=class_names.of(name),
    )
