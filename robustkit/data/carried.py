"""Files that other packages carry beside their code."""

import importlib.util
from pathlib import Path

from robustkit.errors import MissingExtra


def carried_by(package: str, *, install: str) -> Path:
    """The folder of an installed package, found and not imported.

    Importing takes seconds for some packages, draws from global generators in others, and may fail
    where the files alone would do.

    Args:
        package: The name by which it is imported.
        install: The name by which it is installed.

    Raises:
        MissingExtra: It is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtra(
            f"These images are carried by the package {install!r}, which is not installed. "
            f"Install it with: pip install {install}"
        )
    return Path(found.origin).parent
