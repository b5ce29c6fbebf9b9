"""What every attack on labels must do, whatever its method."""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from robustkit.attacks import EvasionAttack
from robustkit.randomness import Streams
from robustkit.threat_models import (
    Access,
    Decisions,
    LpBall,
    Meter,
    Objective,
    Trace,
    grant,
)
from robustkit.threat_models.perturbation import Norm
from tests.oracles import Counting


@dataclass
class Attacked:
    """An attack that has run, and all that was asked."""

    clean: Tensor
    points: Tensor
    meter: Meter
    counting: Counting | None
    trace: Trace
    ball: LpBall
    asked: list[Tensor] = field(default_factory=list)

    @property
    def spent(self) -> list[int]:
        spent: list[int] = self.meter.ledger.forward.tolist()
        return spent

    @property
    def distance(self) -> Tensor:
        return self.ball.distance(self.clean, self.points)


def attacked(
    attack: EvasionAttack[Decisions],
    model: nn.Module,
    clean: Tensor,
    labels: Tensor,
    *,
    queries: int | None = None,
    targets: Tensor | None = None,
    starts: Tensor | None = None,
    width: int | None = 8,
    ids: Tensor | None = None,
    norm: Norm | None = None,
) -> Attacked:
    """Run an attack, and check what must always hold."""
    # A model that refuses is asked in another way, which the counter does not know.
    counting = None if hasattr(model, "answer") else Counting(model)
    streams = Streams.of(seed=0, ids=torch.arange(len(clean)) if ids is None else ids)
    meter = Meter(counting or model, streams, width=width, queries=queries)
    ball = LpBall(norm=norm or norm_of(attack), radius=0.5)
    objective = Objective(labels, targets, starts)
    trace = Trace(clean, objective, ball)
    asked: list[Tensor] = []

    def observe(inputs: Tensor, payers: Tensor, output: object, numbers: Tensor) -> None:
        asked.append(inputs.clone())
        trace.observe(inputs, payers, output, numbers)  # type: ignore[arg-type]

    meter.observer = observe
    view = grant(meter, Access.DECISION)
    points = attack.run(view, clean, objective, ball, streams=streams)
    result = Attacked(clean, points, meter, counting, trace, ball, asked)
    everything = torch.cat(asked) if asked else clean[:0]
    assert bool(ball.in_box(everything).all()), "a question outside the value range"
    assert bool(ball.in_box(points).all())
    assert sum(result.spent) == len(everything)
    assert counting is None or set(counting.widths) <= {width} or width is None
    assert queries is None or max(result.spent, default=0) <= queries
    return result


def norm_of(attack: EvasionAttack[Decisions]) -> Norm:
    """The attack's only norm, or the last of the alphabet: linf."""
    return cast("Norm", max(attack.norms))
