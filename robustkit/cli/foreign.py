"""Code of others, such as a model's, while a command runs."""

import contextlib
import sys
from collections.abc import Iterator

from robustkit.errors import BadInput


@contextlib.contextmanager
def kept_apart() -> Iterator[None]:
    """Inside, foreign code neither prints among the results nor ends the command.

    What it prints goes to stderr.

    Raises:
        BadInput: It tried to end the program.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except SystemExit as error:
            raise BadInput(
                f"The model's code tried to end the program (SystemExit: {error.code}). Remove the "
                "call of sys.exit() or exit() from it."
            ) from error
