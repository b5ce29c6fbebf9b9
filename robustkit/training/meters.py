"""Means of what is noted at every step, added up where it is made."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robustkit.training.runtime import Session


class Means:
    """Running sums of scalars by name; nothing is read from the device before it is asked for."""

    def __init__(self) -> None:
        """Nothing has been added."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @classmethod
    def of(cls, state: Mapping[str, Mapping[str, Tensor | int]], device: torch.device) -> "Means":
        """What `state_dict` returned."""
        means = cls()
        means._sums = {name: torch.as_tensor(v).to(device) for name, v in state["sums"].items()}
        means._counts = {name: int(count) for name, count in state["counts"].items()}
        return means

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value to each sum."""
        for name, value in values.items():
            exact = value.detach().double()
            old = self._sums.get(name)
            self._sums[name] = exact if old is None else old + exact
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, session: Session) -> dict[str, float]:
        """The means over all processes; the sums start anew."""
        names = list(self._sums)
        if not names:
            return {}
        own = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = (session.sum(own) / session.world).tolist()
        self._sums, self._counts = {}, {}
        return dict(zip(names, means, strict=True))

    def state_dict(self) -> dict[str, dict[str, Tensor | int]]:
        """What must survive a resumed run."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}
