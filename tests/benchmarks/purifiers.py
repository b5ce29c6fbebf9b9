"""Contextual fusion and the LQ-VAE filter on Fashion-MNIST (linf) beside what they are made of: the
plain classifier, which also stands behind the filter; the two branches of the fusion with heads of
their own, of which one has learnt from images without their centre and one from centres alone; and
the mean of these two heads. Each row is one attack; every image is attacked to the last step.
Direct: the attack follows the model itself. On a branch: it follows that branch's own head, and the
point is handed to the others. No filter: it follows the classifier alone. Unquantised: the filter
with its soft code. BPDA: the filter's own images, with a gradient that passes around it (identity)
or that of the soft code (straight-through). Naive: direct attacks, for the fusion attacks on either
branch alone; worst: per image, all rows. In brackets Wilson's 95 % intervals. The filter that draws
is attacked by its own answers with those gradients, on single draws and on averages, and with the
gradient of the code as it is on average over all draws, which has no noise; the search that does
best on 10 draws is scored on 20 fresh ones, and cells hold the mean over draws, with the interval
of so many images. Whether that column has converged is told by how far apart searches end that
follow different gradients for different numbers of steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from robustkit import data, evaluate
from robustkit.attacks import APGD, PGD, EvasionAttack
from robustkit.data import LabelledImages
from robustkit.defenses import Aggregation, Filtered
from robustkit.defenses.lipschitz_filter import Kind
from robustkit.defenses.lq_vae import Look
from robustkit.defenses.peers import Only
from robustkit.randomness import Streams
from robustkit.threat_models import LpBall, ThreatModel, answer
from tests.benchmarks.crossmax_matrix import Drawn, Source, Votes, searched, searched_at_random
from tests.benchmarks.keeping import folder, kept
from tests.benchmarks.purifiers_models import Size, filtered, fusion, lessons, network
from tests.benchmarks.purifiers_table import (
    CONTEXT,
    DRAWN,
    DRAWS,
    FUSION,
    MEAN,
    MEANS,
    OBJECT,
    PLAIN,
    Found,
    cost,
    filter_conclusions,
    fusion_conclusions,
    table,
)

TITLE = "Purifiers: contextual fusion and LQ-VAE"
RADII = {"8/255": 8 / 255, "0.1": 0.1}


@dataclass(frozen=True, kw_only=True)
class Branches(Aggregation):
    """The mean of the branches' own heads, which lie behind the fused one."""

    def combine(self, logits: Tensor) -> Tensor:
        return logits[:, 1:3].mean(1)


# In the votes: the fused head, the context's, the object's, and the plain classifier.
RULES: dict[str, Aggregation] = {
    FUSION: Only(member=0),
    CONTEXT: Only(member=1),
    OBJECT: Only(member=2),
    MEAN: Branches(),
    PLAIN: Only(member=3),
}
BEHIND: dict[str, Aggregation] = {"filtered": Only(member=0)}


def run(size: Size | None = None) -> dict[str, Any]:
    """Every row at every radius, what our evaluation says, and what follows."""
    size = size or Size()
    test = data.load("fashion-mnist", n=size.images)
    rows: list[dict[str, Any]] = []
    told: list[str] = []
    reports: list[dict[str, Any]] = []
    with folder() as place:
        best = better_branch(place, size)
        for words, radius in RADII.items():
            threat = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=radius))
            found = all_rows(place, test, threat, size)
            rows += table(words, found)
            if not told:
                told += cost(found)
            told += [*fusion_conclusions(words, found, best), *filter_conclusions(words, found)]
        reports = [judged(place, name, test, size) for name in (FUSION, MEANS)]
    told += [one["told"] for one in reports]
    return {
        "rows": rows,
        "conclusions": told,
        "evaluations": reports,
        "setting": (
            f"CNNs of width {size.width}, {size.train:,} training images, {size.epochs} epochs; "
            f"heads of the fusion {size.fusion_epochs} epochs; filter of width "
            f"{size.filter_width}, 32 numbers per 4 x 4 pixels, {size.filter_epochs} epochs; "
            f"{len(test)} test images, {size.steps} steps, {size.drawn_steps} on single draws; one "
            "seed"
        ),
    }


# --- the rows ------------------------------------------------------------------------------------


def all_rows(place: Path, test: LabelledImages, threat: ThreatModel, size: Size) -> Found:
    """The rows at one radius; finished ones are kept."""
    fused, plain = fusion(place, size), network(place, "plain", size)
    means, drawing = (filtered(place, size, sampled=sampled) for sampled in (False, True))

    def heads(inputs: Tensor, _streams: Streams | None) -> Tensor:
        return torch.cat([fused.every_head(inputs), plain(inputs)[:, None]], dim=1)

    facts = {
        "learnt": size.learnt,
        "steps": [size.steps, size.drawn_steps],
        "average": size.average,
        "data": test.sha256,
        "threat": repr(threat),
    }
    pgd, apgd = PGD(steps=size.steps, loss="margin"), APGD(steps=size.steps)

    def row(name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        return kept(place, "purifiers-row", {**facts, "row": name}, make)

    found: dict[str, dict[str, list[bool]]] = {}

    def add(name: str, column: str, make: Callable[[], dict[str, list[bool]]]) -> None:
        found.setdefault(name, {}).update(row(f"{name} {column}", make))

    add("clean", "heads", lambda: clean(heads, RULES, test))
    add("clean", MEANS, lambda: as_means(clean(looks(means, "hard"), BEHIND, test)))
    for attack, name in ((pgd, "PGD"), (apgd, "APGD-CE")):
        for column in RULES:
            make = following(heads, RULES[column], {column: RULES[column]}, test, threat, attack)
            add(f"direct {name}", column, make)
        for column in (CONTEXT, OBJECT):
            others = {one: RULES[one] for one in (FUSION, MEAN)}
            add(
                f"{name} on the {column.split()[0]} branch",
                column,
                following(heads, RULES[column], others, test, threat, attack),
            )
        for look, called in LOOKS.items():
            votes = looks(means, look)
            make = following(votes, Only(member=1), BEHIND, test, threat, attack)
            add(f"{called} {name}" if look == "hard" else f"{name}, {called}", MEANS, renamed(make))
    drawn = {
        name: Drawn(**row(f"{name} {DRAWN}", make))
        for name, make in drawn_rows(drawing, test, threat, size).items()
    }
    return Found(found, drawn)


# How a row that follows the filter is called, by what it follows.
LOOKS: dict[Look | str, str] = {
    "hard": "direct",
    "classifier": "no filter",
    "soft": "unquantised filter",
    "identity": "BPDA identity",
    "straight-through": "BPDA straight-through",
}


def looks(model: Filtered, look: Look | str) -> Votes:
    """Answers of a filtered classifier and of a look at it, (N, 2, K)."""

    def votes(inputs: Tensor, streams: Streams | None) -> Tensor:
        if look == "hard":
            own = answer(model, inputs, streams).logits
            return torch.stack([own, own], dim=1)
        with torch.no_grad():
            own = answer(model, inputs, streams).logits
        if look == "classifier":
            other = model.classifier(inputs)
        else:
            known: Look = next(one for one in (*kinds(), "identity") if one == look)
            other = model.looked_at(inputs, streams, known, model.classifier).logits
        return torch.stack([own, other], dim=1)

    return votes


def kinds() -> tuple[Any, ...]:
    """What the filter can put images together from."""
    codes, averages = get_args(Kind)
    return (*get_args(codes), *get_args(averages))


def clean(votes: Votes, rules: Mapping[str, Aggregation], test: LabelledImages) -> Any:  # noqa: ANN401
    """Which images each rule has right."""
    with torch.no_grad():
        found = votes(test.inputs(torch.arange(len(test))), None)
    return {name: (rule(found).argmax(1) == test.labels).tolist() for name, rule in rules.items()}


def following(
    votes: Votes,
    rule: Aggregation,
    judged: Mapping[str, Aggregation],
    test: LabelledImages,
    threat: ThreatModel,
    attack: EvasionAttack[Any],
) -> Callable[[], dict[str, list[bool]]]:
    """What makes a row: an attack that follows one rule, judged by others."""
    source = Source(votes, rule, gradient_of=None, random=False)
    return lambda: searched(source, judged, test, threat, attack)


def renamed(make: Callable[[], dict[str, list[bool]]]) -> Callable[[], dict[str, list[bool]]]:
    """The same row under the name of the filter that takes means."""
    return lambda: as_means(make())


def as_means(found: Mapping[str, list[bool]]) -> dict[str, list[bool]]:
    """A row of a filtered classifier under the name of the filter that takes means."""
    return {MEANS: found["filtered"]}


def drawn_rows(
    model: Filtered, test: LabelledImages, threat: ThreatModel, size: Size
) -> dict[str, Callable[[], Any]]:
    """What makes the rows of the filter that draws."""

    def pgd(steps: int) -> PGD:
        length = max(1 / 8, 2.5 / steps)
        return PGD(steps=steps, step_size=length, loss="margin", momentum=0.75)

    short, long, draws = pgd(size.drawn_steps), pgd(size.steps), size.average
    words = f"{size.steps} steps of PGD, BPDA"
    plan: dict[str, tuple[str, EvasionAttack[Any], int]] = {
        "direct PGD": ("hard", short, 1),
        "PGD, no filter": ("classifier", short, 1),
        "PGD, unquantised filter": ("soft", short, 1),
        "PGD, BPDA identity": ("identity", short, 1),
        "PGD, BPDA straight-through": ("straight-through", short, 1),
        f"{words} straight-through, average of {draws} draws": ("straight-through", long, draws),
        f"{words} average code, average of {draws} draws": ("average-through", long, draws),
        f"{5 * size.steps} steps of PGD, average code": ("average", pgd(5 * size.steps), 1),
        "APGD-CE, average code": ("average", APGD(steps=2 * size.steps), 1),
    }

    def make(look: str, attack: EvasionAttack[Any] | None, average: int) -> Callable[[], Any]:
        own = Only(member=0)
        plain = None if look == "hard" else Only(member=1)
        source = Source(looks(model, look), own, gradient_of=plain, random=True)

        def searching() -> dict[str, Any]:
            found = searched_at_random(
                source, BEHIND, test, threat, attack, average=average, draws=DRAWS
            )
            return {"chosen": found.chosen, "fresh": found.fresh}

        return searching

    return {
        "clean": make("hard", None, 1),
        **{name: make(look, attack, average) for name, (look, attack, average) in plan.items()},
    }


def better_branch(place: Path, size: Size) -> str:
    """The branch that has more training images right."""

    def make() -> dict[str, float]:
        fused, train = fusion(place, size), lessons(size).first(min(2000, size.train))
        with torch.no_grad():
            heads = fused.every_head(train.inputs(torch.arange(len(train))))
        right = (heads.argmax(2) == train.labels[:, None]).float().mean(0).tolist()
        return {CONTEXT: right[1], OBJECT: right[2]}

    found: dict[str, float] = kept(place, "purifiers-branches", {"learnt": size.learnt}, make)
    return max(found, key=lambda name: found[name])


def judged(place: Path, name: str, test: LabelledImages, size: Size) -> dict[str, Any]:
    """What `evaluate` reports although one direct attack was asked for."""

    def make() -> dict[str, Any]:
        model = fusion(place, size) if name == FUSION else filtered(place, size, sampled=False)
        threat = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=RADII["0.1"]))
        report = evaluate(
            model,
            test.first(size.reported),
            threat,
            attacks=[PGD(steps=size.steps, loss="margin")],
        )
        surrogate = report.accuracies.surrogate
        return {
            "model": name,
            "direct": report.accuracies.direct.value,
            "surrogate": None if surrogate is None else surrogate.value,
            "worst": report.accuracies.worst.value,
            "violations": report.violations,
            "flags": [f"{flag.id} ({flag.severity})" for flag in report.flags],
        }

    facts = {
        "learnt": size.learnt,
        "steps": size.steps,
        "data": test.sha256,
        "name": name,
        "n": size.reported,
    }
    found: dict[str, Any] = kept(place, "purifiers-evaluate", facts, make)
    told = (
        f"`evaluate --attacks pgd` on {name} ({size.reported} images, eps 0.1) reports "
        f"{100 * found['direct']:.1f} % under direct attacks, {100 * found['surrogate']:.1f} % "
        f"through stand-ins, {100 * found['worst']:.1f} % as its headline, and raises "
        f"{', '.join(found['flags'])}."
    )
    return {**found, "told": told}
