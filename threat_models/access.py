"""How much of a model's answer the adversary sees."""

from enum import IntEnum

from robustkit.errors import BadInput


class Access(IntEnum):
    """How much of the model's answer the adversary sees; a higher one includes the lower."""

    DECISION = 1
    SCORE = 2
    GRADIENT = 3

    @classmethod
    def parse(cls, text: str) -> "Access":
        """The access called `decision`, `score` or `gradient`."""
        try:
            return cls[text.upper()]
        except KeyError:
            names = ", ".join(str(access) for access in cls)
            raise BadInput(f"The access {text!r} is unknown. Use one of: {names}.") from None

    def __str__(self) -> str:
        """Lower case, as users type it."""
        return self.name.lower()
