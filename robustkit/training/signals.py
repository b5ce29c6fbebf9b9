"""Being asked to end, and ending at a place where nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Asked:
    """Whether a signal has asked this process to end.

    Attributes:
        yes: Whether it has.
    """

    def __init__(self) -> None:
        """Nobody has."""
        self.yes = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.yes and number == signal.SIGINT:
            # Whoever presses Ctrl-C twice does not want to wait for the step to end.
            raise KeyboardInterrupt
        self.yes = True


@contextlib.contextmanager
def listening(*, enabled: bool) -> Iterator[Asked]:
    """Hear SIGTERM and SIGINT instead of being ended by them; handlers are restored afterwards.

    Args:
        enabled: False leaves the handlers alone; so do threads other than the main one.
    """
    asked = Asked()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, asked._hear) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
