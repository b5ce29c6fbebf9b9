"""Models whose right answers are known: what attacks, views and judges are tested against."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.attacks import EvasionAttack
from robustkit.randomness import Streams
from robustkit.threat_models import Gradients, LpBall, Objective, Output, ThreatModel
from robustkit.threat_models.perturbation import Norm


class Linear(nn.Module):
    """Logits that are a linear function of the flattened input."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs.flatten(1), self.weight, self.bias)


@dataclass(frozen=True)
class Problem:
    """A linear model with inputs that it classifies correctly."""

    model: Linear
    clean: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Problem":
        """The same problem elsewhere."""
        return Problem(self.model.to(device), self.clean.to(device), self.labels.to(device))

    def smallest(self, norm: str, *, boxed: bool = True) -> Tensor:
        """(N,) float64: the exact smallest radius at which an example can be misclassified."""
        return torch.tensor(
            [radius for radius, _ in self.nearest(norm, boxed=boxed)], dtype=torch.float64
        )

    def nearest(self, norm: str, *, boxed: bool = True) -> list[tuple[float, int]]:
        """The smallest radius of each example and the class that is reached there."""
        return nearest_classes(self.model, self.clean, self.labels, norm, boxed=boxed)


def linear_problem(
    shape: tuple[int, int, int] = (3, 4, 6),
    *,
    classes: int = 2,
    examples: int = 5,
    seed: int = 0,
    interior: bool = False,
) -> Problem:
    """A random linear model and correctly classified inputs, none of them on the boundary.

    `interior` keeps the inputs near the middle of [0, 1], so that the range does not bind.
    """
    generator = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    weight = torch.randn(classes, size, generator=generator)
    clean = torch.rand(4 * examples, *shape, generator=generator)
    if interior:
        clean = 0.5 + 0.1 * (clean - 0.5)
    # The decision boundary of every pair of classes passes near the middle of the inputs.
    bias = -(weight @ clean.mean(0).flatten())
    model = Linear(weight, bias)
    two = model(clean).topk(2, dim=1).values
    clean = clean[(two[:, 0] - two[:, 1]).argsort(descending=True)[:examples]]
    return Problem(model, clean, model(clean).argmax(1))


def nearest_classes(
    model: Linear, clean: Tensor, labels: Tensor, norm: str, *, boxed: bool = True
) -> list[tuple[float, int]]:
    """The smallest change that makes another class at least as likely, and that class.

    Each other class gives one half-space; the nearest one decides. With `boxed` the changed input
    must stay in [0, 1].
    """
    weight, bias = model.weight.double(), model.bias.double()
    flat = clean.flatten(1).double()
    found = []
    pixels = clean.shape[2] * clean.shape[3]
    for x, label in zip(flat, labels.tolist(), strict=True):
        radii = []
        for other in range(len(weight)):
            if other == label:
                continue
            slope = weight[label] - weight[other]
            lead = float(slope @ x + bias[label] - bias[other])
            room = torch.where(slope > 0, x, 1 - x) if boxed else torch.full_like(x, torch.inf)
            radii.append((_to_half_space(slope.abs(), room, lead, norm, pixels), other))
        found.append(min(radii))
    return found


def _to_half_space(slope: Tensor, room: Tensor, lead: float, norm: str, pixels: int) -> float:
    """The least norm of d, 0 <= d <= room, with slope @ d >= lead; slope >= 0."""
    if lead <= 0:
        return 0.0
    if norm == "l1":
        return _greedy(slope, room, lead)
    if norm == "l0":
        gains = torch.where(slope > 0, slope * room, 0.0).reshape(-1, pixels).sum(0)
        total = gains.sort(descending=True).values.cumsum(0)
        enough = (total >= lead).nonzero()
        return float(enough[0]) + 1 if len(enough) else torch.inf
    # Both optima move every value by min(t * direction, room) for one t.
    direction = slope if norm == "l2" else (slope > 0).double()
    scale = _scale(slope, direction, room, lead)
    if scale == torch.inf:
        return torch.inf
    moved = (scale * direction).minimum(room)
    return float(moved.norm()) if norm == "l2" else float(moved.max())


def _greedy(slope: Tensor, room: Tensor, lead: float) -> float:
    """Spend the l1 length on the steepest values first."""
    spent = 0.0
    for index in slope.argsort(descending=True).tolist():
        gain = float(slope[index] * room[index]) if float(slope[index]) else 0.0
        if gain >= lead:
            return spent + lead / float(slope[index])
        lead -= gain
        spent += float(room[index])
    return torch.inf


def _scale(slope: Tensor, direction: Tensor, room: Tensor, lead: float) -> float:
    """The smallest t with slope @ min(t * direction, room) >= lead."""
    used = direction > 0
    slope, direction, room = slope[used], direction[used], room[used]
    ends = room / direction
    order = ends.argsort()
    slope, direction, room, ends = (v[order] for v in (slope, direction, room, ends))
    full = 0.0
    rate = float((slope * direction).sum())
    for s, d, r, end in zip(
        slope.tolist(), direction.tolist(), room.tolist(), ends.tolist(), strict=True
    ):
        if full + rate * end >= lead:
            return (lead - full) / rate
        full += s * r
        rate -= s * d
    return torch.inf


class Network(nn.Module):
    """A small convolutional network with batch normalisation, for any channels and image size."""

    def __init__(self, *, channels: int = 3, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.first = nn.Conv2d(channels, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.last = nn.Linear(24, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            self.norm.running_mean.copy_(torch.randn(6, generator=generator))  # type: ignore[union-attr]
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.first(inputs - 0.5)))
        answer: Tensor = self.last(F.adaptive_avg_pool2d(hidden, 2).flatten(1))
        return answer


class Counting(nn.Module):
    """Passes everything on to `model` and counts rows, independently of the package's ledger.

    Attributes:
        forward_rows: Rows passed forward.
        backward_rows: Rows whose gradient came back.
        calls: How often the model was called.
        widths: Rows of each call.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_rows = 0
        self.backward_rows = 0
        self.widths: list[int] = []
        self.eval()

    @property
    def calls(self) -> int:
        return len(self.widths)

    def forward(self, inputs: Tensor) -> Tensor:
        self.forward_rows += len(inputs)
        self.widths.append(len(inputs))
        logits: Tensor = self.model(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


class Constant(nn.Module):
    """The same logits for every input, with a graph whose gradient is zero."""

    answer_of_all: Tensor

    def __init__(self, logits: tuple[float, ...] = (1.0, 0.0, -1.0)) -> None:
        super().__init__()
        self.register_buffer("answer_of_all", torch.tensor(logits))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer_of_all + 0.0 * inputs.flatten(1).sum(1, keepdim=True)


class NaNs(nn.Module):
    """NaN logits for inputs whose mean exceeds `above`, linear ones for the others."""

    def __init__(self, problem: Linear, above: float = -1.0) -> None:
        super().__init__()
        self.model = problem
        self.above = above
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        broken = inputs.flatten(1).mean(1, keepdim=True) > self.above
        return torch.where(broken, logits * torch.nan, logits)


class Rejecting(nn.Module):
    """Refuses to answer where the lead of the first class over the second is below `lead`."""

    stochastic = False

    def __init__(self, model: nn.Module, lead: float) -> None:
        super().__init__()
        self.model = model
        self.lead = lead
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        logits = self.model(inputs)
        two = logits.topk(2, dim=1).values
        return Output(logits, rejected=two[:, 0] - two[:, 1] < self.lead)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer(inputs).logits


class LabelSets(nn.Module):
    """Answers with all labels whose logit is within `width` of the largest."""

    stochastic = False

    def __init__(self, model: nn.Module, width: float) -> None:
        super().__init__()
        self.model = model
        self.width = width
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        logits = self.model(inputs)
        return Output(logits, label_set=logits >= logits.amax(1, keepdim=True) - self.width)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer(inputs).logits


class Noisy(nn.Module):
    """Linear in the input plus noise from the streams; keeps the numbers it was given.

    Attributes:
        drawn: (rows,) of each call: the first random number of every row.
        ids: The example ids of each call.
    """

    stochastic = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.drawn: list[Tensor] = []
        self.ids: list[Tensor] = []
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        if streams is None:
            raise TypeError("a random model needs streams")
        noise = streams.uniform((1,))
        self.drawn.append(noise[:, 0].clone())
        self.ids.append(streams.ids.clone())
        logits = self.model(inputs)
        return Output(
            logits + torch.cat([noise, -noise], 1).repeat(1, logits.shape[1])[:, : logits.shape[1]]
        )

    def forward(self, inputs: Tensor) -> Tensor:
        raise TypeError("ask a random model with `answer`")


def attack_alone(
    attack: EvasionAttack[Gradients],
    problem: Problem,
    row: int,
    allowed: LpBall,
    *,
    target: int | None = None,
) -> bool:
    """Whether the judge grants the attack a success at one example of the problem."""
    rows = slice(row, row + 1)
    clean = problem.clean[rows]
    streams = Streams.of(seed=0, ids=torch.tensor([row], device=clean.device))
    threat = ThreatModel(name="oracle", perturbation=allowed)
    view = threat.view(problem.model, streams)
    wanted = None if target is None else torch.full_like(problem.labels[rows], target)
    objective = Objective(problem.labels[rows], wanted)
    changed = attack.run(view, clean, objective, allowed, streams=streams)  # type: ignore[arg-type]
    verdict = threat.judge(problem.model, clean, changed, objective, view.spent)
    if not (attack.minimises or bool(verdict.allowed)):
        raise AssertionError(f"{attack} left {allowed}: distance {float(verdict.distance)}")
    return bool(verdict.achieved)


def check_against_optimum(
    attack: EvasionAttack[Gradients],
    problem: Problem,
    norm: Norm,
    *,
    slack: float = 1.25,
    targeted: bool = False,
) -> None:
    """An attack succeeds within `slack` of the smallest radius, and never below it.

    A success below the smallest radius is impossible: then the judge or the oracle is wrong.
    `targeted` gives it the nearest class as target, for which the smallest radius is the same.

    Raises:
        AssertionError: Either is not so.
    """
    for row, (smallest, nearest) in enumerate(problem.nearest(norm)):
        above = LpBall(norm=norm, radius=smallest * slack)
        target = nearest if targeted else None
        if not attack_alone(attack, problem, row, above, target=target):
            raise AssertionError(f"{attack} fails on row {row} at {slack} x {smallest} in {norm}")
        if attack_alone(attack, problem, row, LpBall(norm=norm, radius=smallest * 0.99)):
            raise AssertionError(f"{attack} succeeds on row {row} below {smallest} in {norm}")
