"""One attack on one source, judged under many rules of the same members at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.attacks import EvasionAttack
from robustkit.attacks._eot import EOT
from robustkit.data import LabelledImages
from robustkit.defenses import Aggregation
from robustkit.randomness import Streams
from robustkit.threat_models import Objective, Output, ThreatModel, grant

Votes = Callable[[Tensor, Streams | None], Tensor]


class Source(nn.Module):
    """What an attack follows: a rule of all members' logits, with another's gradient if asked."""

    def __init__(
        self, votes: Votes, rule: Aggregation, *, gradient_of: Aggregation | None, random: bool
    ) -> None:
        super().__init__()
        self.votes, self.rule, self.gradient_of = votes, rule, gradient_of
        self.stochastic = random
        self.last: Tensor | None = None

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        votes = self.votes(inputs, streams)
        self.last = votes.detach()
        logits = self.rule(votes)
        if self.gradient_of is not None:
            plain = self.gradient_of(votes)
            logits = plain + (logits - plain).detach()
        return Output(logits)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer(inputs).logits


@dataclass
class Watch:
    """Keeps, for each rule, a point at which it was wrong at any step; clean where it never was.

    Attributes:
        source: What is attacked.
        rules: By name.
        clean: (N, C, H, W).
        labels: (N,).
        allowed: Tells whether points lie inside.
        points: By rule, (N, C, H, W).
    """

    source: Source
    rules: Mapping[str, Aggregation]
    clean: Tensor
    labels: Tensor
    allowed: Any
    points: dict[str, Tensor] = field(init=False)
    fell: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.points = {name: self.clean.clone() for name in self.rules}
        self.fell = {name: torch.zeros(len(self.clean), dtype=torch.bool) for name in self.rules}

    def look(self, inputs: Tensor, payers: Tensor, _output: Output, _numbers: Tensor) -> None:
        if self.source.last is None or len(self.source.last) != len(inputs):
            raise RuntimeError("The votes do not belong to the inputs.")
        inside = self.allowed.contains(self.clean[payers], inputs)
        for name, rule in self.rules.items():
            wrong = Output(rule(self.source.last)).labels != self.labels[payers]
            new = wrong & inside & ~self.fell[name][payers]
            self.points[name][payers[new]] = inputs[new]
            self.fell[name][payers[new]] = True


def searched(
    source: Source,
    rules: Mapping[str, Aggregation],
    images: LabelledImages,
    threat: ThreatModel,
    attack: EvasionAttack[Any],
    *,
    chunk: int = 125,
) -> dict[str, list[bool]]:
    """Which images each rule still has right on fresh passes over the points of one search.

    Every image is attacked for all steps, whatever any rule answers on the way.
    """
    stands: dict[str, list[bool]] = {name: [] for name in rules}
    for rows in torch.split(torch.arange(len(images)), chunk):
        clean, labels = images.inputs(rows), images.labels[rows]
        streams = Streams.of(seed=0, ids=images.ids[rows], purpose="search")
        watch = Watch(source, rules, clean, labels, threat.allowed)
        meter = threat.meter(source, streams)
        meter.observer = watch.look
        view: Any = grant(meter, attack.access)
        EOT(attack=attack, average=1).run(  # type: ignore[arg-type]
            view, clean, Objective(labels, None), threat.allowed, streams=streams
        )
        for name, rule in rules.items():
            points = watch.points[name]
            if not bool(threat.allowed.contains(clean, points).all()):
                raise RuntimeError("A point lies outside the set.")
            with torch.no_grad():
                answers = Output(rule(source.votes(points, None))).labels
            stands[name] += (answers == labels).tolist()
    return stands


@dataclass(frozen=True)
class Drawn:
    """How often each rule was right about each image, over draws of a random model.

    Attributes:
        chosen: By rule, (N,) counts of the draws that choose among searches.
        fresh: By rule, (N,) counts of fresh draws.
    """

    chosen: dict[str, list[int]]
    fresh: dict[str, list[int]]


def searched_at_random(
    source: Source,
    rules: Mapping[str, Aggregation],
    images: LabelledImages,
    threat: ThreatModel,
    attack: EvasionAttack[Any] | None,
    *,
    average: int,
    draws: tuple[int, int],
    chunk: int = 125,
) -> Drawn:
    """Attack a random source over averages of draws, and ask every rule about the best point.

    Args:
        source: What is attacked.
        rules: By name.
        images: The examples.
        threat: The adversary.
        attack: None asks about the clean images.
        average: Draws per step.
        draws: How many choose, and how many fresh ones score.
        chunk: Images at a time.
    """
    found = Drawn({name: [] for name in rules}, {name: [] for name in rules})
    for rows in torch.split(torch.arange(len(images)), chunk):
        clean, labels = images.inputs(rows), images.labels[rows]
        streams = Streams.of(seed=0, ids=images.ids[rows], purpose="search")
        points = clean
        if attack is not None:
            view: Any = grant(threat.meter(source, streams), attack.access)
            points = EOT(attack=attack, average=average).run(  # type: ignore[arg-type]
                view, clean, Objective(labels, None), threat.allowed, streams=streams
            )
            if not bool(threat.allowed.contains(clean, points).all()):
                raise RuntimeError("A point lies outside the set.")
        for counts, purpose, number in zip(
            (found.chosen, found.fresh), ("select", "score"), draws, strict=True
        ):
            for name, right in counted(
                source.votes, rules, points, labels, streams.fork(purpose), number
            ).items():
                counts[name] += right
    return found


def counted(
    votes: Votes,
    rules: Mapping[str, Aggregation],
    points: Tensor,
    labels: Tensor,
    streams: Streams,
    number: int,
) -> dict[str, list[int]]:
    """In how many draws each rule is right about each point."""
    right = {name: torch.zeros_like(labels) for name in rules}
    with torch.no_grad():
        for draw in range(number):
            logits = votes(points, streams.on_lanes(draw))
            for name, rule in rules.items():
                right[name] += Output(rule(logits)).labels == labels
    return {name: counts.tolist() for name, counts in right.items()}


def stacked(members: Sequence[nn.Module], *, only: int | None = None) -> Votes:
    """The logits of plain members, all with gradients or one of them only."""

    def votes(inputs: Tensor, _streams: Streams | None) -> Tensor:
        answers = []
        for number, member in enumerate(members):
            with torch.set_grad_enabled(torch.is_grad_enabled() and only in (None, number)):
                answers.append(member(inputs))
        return torch.stack(answers, dim=1)

    return votes
