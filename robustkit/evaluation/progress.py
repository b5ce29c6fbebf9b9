"""Who is told how a run goes on."""

from typing import Protocol


class Progress(Protocol):
    """Told how a run goes on."""

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage begins; `done` of its `total` examples were finished by an earlier run."""
        ...

    def advance(self, done: int, broken: int) -> None:
        """So many more examples have left the stage, so many of them broken."""
        ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, done: int, broken: int) -> None:
        """Nothing."""
