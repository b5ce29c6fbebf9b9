"""Where a run takes place."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from robustkit.report.parts import Environment

# Those whose version can change a result.
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "foolbox", "pyautoattack")


def current_environment(
    device: torch.device, *, dtype: torch.dtype, width: int | None, reproducible: bool
) -> Environment:
    """The environment of this process.

    Args:
        device: Where the model runs.
        dtype: Type in which attacks search.
        width: Rows in which the model is run; None where every batch runs as it comes.
        reproducible: Whether the same command gives the same examples again.
    """
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        device=str(device),
        device_name=_device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        width=width,
        threads=torch.get_num_threads(),
        reproducible=reproducible,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
