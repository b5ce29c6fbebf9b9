"""CrossMax on Fashion-MNIST (linf, eps 0.1) beside plain rules of the same members: the mean of
their logits, the median, a vote, and one member alone (of the self-ensemble: its network). Each row
is one attack that follows one source; all rules are judged on it, at every step, on the same test
images, and each image is attacked to the last step. Direct: the source is the rule itself (votes
have no gradient). Transfer: the mean, the median, or single members. BPDA: the rule's answers with
the mean's gradient. Naive: what direct attacks report; worst: per image, all rows. In brackets
Wilson's 95 % intervals. The self-ensemble draws its input anew for every answer: attacks average
over draws, the search that does best on 10 draws is scored on 20 fresh ones, and cells hold the
mean over draws, with the interval of so many images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from robustkit import data, evaluate
from robustkit.attacks import APGD, PGD, EvasionAttack
from robustkit.data import LabelledImages
from robustkit.defenses import (
    Aggregation,
    CrossMax,
    Ensemble,
    MeanLogits,
    MedianLogits,
    MultiResolution,
    MultiResolutionStack,
    SelfEnsemble,
    Vote,
)
from robustkit.defenses.peers import Only
from robustkit.files import write_atomically
from robustkit.models.cnn import CNN
from robustkit.randomness import Streams
from robustkit.statistics import paired_difference, wilson
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import AdamW, OneCycle, Runtime, Trainer
from tests.benchmarks.crossmax_matrix import (
    Drawn,
    Source,
    searched,
    searched_at_random,
    stacked,
)
from tests.benchmarks.crossmax_members import LESSONS, Size, member
from tests.benchmarks.keeping import folder, kept

TITLE = "CrossMax: direct attacks against the worst case"
THREAT = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
MEAN, MEDIAN = MeanLogits(), MedianLogits()
Rules = Mapping[str, Aggregation]
SELF = "self-ensemble"
DRAWS = (10, 20)
AVERAGE = 4


def ranks(members: int) -> int:
    """The rank beside the median."""
    return 3 if members > 5 else 2


def rules(members: int) -> dict[str, Aggregation]:
    """The columns; their names stand in the table."""
    rank = ranks(members)
    return {
        "mean": MEAN,
        "logit median": MEDIAN,
        "CrossMax": CrossMax(),
        f"CrossMax, rank {rank}": CrossMax(rank=rank),
        "vote": Vote(),
        "one member": Only(member=members - 1),
    }


def run(size: Size | None = None) -> dict[str, Any]:
    """Every row of every ensemble, what our evaluation says, and what follows."""
    size = size or Size()
    test = data.load("fashion-mnist", n=size.images)
    rows: list[dict[str, Any]] = []
    told: list[str] = []
    evaluations = []
    with folder() as place:
        for lesson in LESSONS:
            found = matrix(place, lesson, test, size)
            rows += table(lesson, found, len(test))
            told.append(conclusion(lesson, found))
            evaluations.append(judged(place, lesson, test, size))
        drawn = drawn_matrix(place, test.first(size.drawn_images), size)
        rows += drawn_table(drawn)
        told.append(drawn_conclusion(drawn))
    told += [one["told"] for one in evaluations]
    return {
        "rows": rows,
        "conclusions": told,
        "evaluations": evaluations,
        "setting": (
            f"{size.members} CNNs of width {size.width}, {size.train:,} training images and "
            f"{size.epochs} epochs each, from different seeds; lightly adversarial: one step of "
            f"FGSM at 8/255 per batch; {len(test)} test images, {size.steps} steps; self-ensemble "
            f"of one such network on stacks of 28, 14, 7 and 4 px, with 4 heads and a second pass, "
            f"{size.drawn_images} test images, {size.drawn_steps} steps; rank k: "
            f"{ranks(size.members)} of {size.members}, {ranks(5)} of 5"
        ),
    }


# --- independently trained members --------------------------------------------------------------


def attacks(steps: int) -> dict[str, EvasionAttack[Any]]:
    """What is run, by name."""
    return {
        "PGD": PGD(steps=steps, loss="margin"),
        "APGD-CE": APGD(steps=steps),
        "APGD-DLR": APGD(steps=steps, loss="dlr"),
        "targeted APGD": APGD(steps=steps, loss="margin", targets=2, ranking="nearest"),
    }


def matrix(place: Path, lesson: str, test: LabelledImages, size: Size) -> dict[str, Any]:
    """By row, and in it by rule, which images stand; finished rows are kept."""
    members = [
        member(place, lesson, seed, size).requires_grad_(False) for seed in range(size.members)
    ]
    columns = rules(size.members)
    every = stacked(members)
    rank = next(name for name in columns if name.startswith("CrossMax, "))
    sources: dict[str, tuple[Source, str]] = {}
    plan = [
        *(("mean", attack) for attack in ("PGD", "APGD-CE", "APGD-DLR", "targeted APGD")),
        ("logit median", "APGD-CE"),
        *(("CrossMax", attack) for attack in ("PGD", "APGD-CE", "APGD-DLR")),
        *((rank, attack) for attack in ("PGD", "APGD-CE")),
    ]
    for column, attack in plan:
        source = Source(every, columns[column], gradient_of=None, random=False)
        sources[f"{attack} on {column}"] = (source, attack)
    for column, attack in (("CrossMax", "APGD-CE"), (rank, "APGD-CE"), ("CrossMax", "PGD")):
        source = Source(every, columns[column], gradient_of=MEAN, random=False)
        sources[f"{attack}, BPDA on {column}"] = (source, attack)
    for number in range(size.members):
        source = Source(
            stacked(members, only=number), Only(member=number), gradient_of=None, random=False
        )
        sources[f"APGD-CE on member {number + 1}"] = (source, "APGD-CE")
    known = attacks(size.steps)
    facts = {"lesson": lesson, "learnt": size.learnt, "steps": size.steps, "data": test.sha256}
    clean = Source(every, MEAN, gradient_of=None, random=False)
    found = {
        "clean": kept(place, "crossmax-clean", facts, lambda: clean_right(clean, columns, test))
    }
    for name, (source, attack) in sources.items():
        found[name] = kept(
            place,
            "crossmax-row",
            {**facts, "row": name},
            row_of(source, columns, test, known[attack]),
        )
    return found


def row_of(
    source: Source, columns: Rules, test: LabelledImages, attack: EvasionAttack[Any]
) -> Callable[[], Any]:
    """What makes a row."""
    return lambda: searched(source, columns, test, THREAT, attack)


def clean_right(source: Source, columns: Rules, test: LabelledImages) -> dict[str, list[bool]]:
    """Which images each rule has right."""
    with torch.no_grad():
        votes = source.votes(test.inputs(torch.arange(len(test))), None)
    return {name: (rule(votes).argmax(1) == test.labels).tolist() for name, rule in columns.items()}


def together(found: Mapping[str, Any], column: str, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Which images stand in all of some rows, and are right to begin with."""
    stands: np.ndarray[Any, Any] = np.all(
        [found[name][column] for name in ("clean", *names)], axis=0
    )
    return stands


def own(column: str, names: Sequence[str]) -> list[str]:
    """The rows of direct attacks on a rule."""
    return [name for name in names if name.endswith(f" on {column}") and "BPDA" not in name]


def table(lesson: str, found: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The rows as they are printed."""
    names = [name for name in found if name != "clean"]
    columns = list(found["clean"])
    last = columns[-1]
    rank = next(name for name in columns if name.startswith("CrossMax, "))
    singles = [name for name in names if " on member " in name]
    direct = {column: own(column, names) for column in columns}
    direct[last] = singles[-1:]
    groups: dict[str, Callable[[str], Sequence[str] | None]] = {"clean": lambda _: ()}
    for attack in ("PGD", "APGD-CE", "APGD-DLR"):
        groups[f"direct {attack}"] = partial(starting, direct, attack)
        groups[f"{attack}, transfer from the mean"] = partial(always, [f"{attack} on mean"])
    groups["targeted APGD, transfer from the mean"] = partial(always, ["targeted APGD on mean"])
    groups["APGD-CE, transfer from the median"] = partial(always, ["APGD-CE on logit median"])
    groups["APGD-CE, transfer from single members"] = partial(always, singles)
    straight = {
        column: [name for name in names if name.endswith(f", BPDA on {column}")]
        for column in ("CrossMax", rank)
    }
    for attack in ("PGD", "APGD-CE"):
        groups[f"{attack}, BPDA with the mean"] = partial(starting, straight, attack)
    groups["naive: all direct attacks"] = partial(starting, direct, "")
    groups["worst case"] = partial(always, names)
    rows = []
    for label, choose in groups.items():
        row = {"members": lesson, "attack": label}
        for column in columns:
            chosen = choose(column)
            title = "CrossMax, rank k" if column.startswith("CrossMax, ") else column
            if chosen is None:
                row[title] = ""
            else:
                row[title] = share(float(together(found, column, chosen).sum()), n)
        rows.append(row)
    return rows


def starting(rows: Mapping[str, Sequence[str]], word: str, column: str) -> Sequence[str] | None:
    """Of a column's rows those that start with a word; None if there are none."""
    return [name for name in rows.get(column, ()) if name.startswith(word)] or None


def always(rows: Sequence[str], _column: str) -> Sequence[str]:
    """The same rows for every column."""
    return rows


def share(count: float, n: int) -> str:
    """A share with Wilson's interval, in %."""
    found = wilson(count, n)
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def conclusion(lesson: str, found: Mapping[str, Any]) -> str:
    """What the figures support, in words that they choose."""
    names = [name for name in found if name != "clean"]
    naive = together(found, "CrossMax", own("CrossMax", names))
    mean_naive = together(found, "mean", own("mean", names))
    worst, mean_worst = (together(found, column, names) for column in ("CrossMax", "mean"))
    credit, gain = paired_difference(naive, mean_naive), paired_difference(worst, mean_worst)
    return f"{lesson.capitalize()} members: " + verdict(
        100 * naive.mean(),
        100 * worst.mean(),
        (credit.value, credit.low, credit.high),
        (gain.value, gain.low, gain.high),
    )


def verdict(
    naive: float,
    worst: float,
    credit: tuple[float, float, float],
    gain: tuple[float, float, float],
) -> str:
    """One sentence on what is left of CrossMax's advantage over the mean."""
    value, low, high = (100 * one for one in gain)
    left = (
        "no gain over the mean is shown"
        if low <= 0 <= high
        else f"{'a gain is left that these attacks do not remove' if value > 0 else 'a loss'}"
    )
    return (
        f"direct attacks credit CrossMax with {naive:.1f} %, "
        f"{100 * credit[0]:+.1f} points [{100 * credit[1]:+.1f}, {100 * credit[2]:+.1f}] over the "
        f"mean; in the worst case it has {worst:.1f} %, {value:+.1f} [{low:+.1f}, {high:+.1f}]: "
        f"{left}."
    )


def judged(place: Path, lesson: str, test: LabelledImages, size: Size) -> dict[str, Any]:
    """What `evaluate` reports of the ensemble although one direct attack was asked for."""

    def make() -> dict[str, Any]:
        members = [member(place, lesson, seed, size) for seed in range(size.members)]
        report = evaluate(
            Ensemble(members, CrossMax()),
            test,
            THREAT,
            attacks=[PGD(steps=size.steps, loss="margin")],
        )
        surrogate = report.accuracies.surrogate
        return {
            "members": lesson,
            "direct": report.accuracies.direct.value,
            "surrogate": None if surrogate is None else surrogate.value,
            "worst": report.accuracies.worst.value,
            "violations": report.violations,
            "flags": [f"{flag.id} ({flag.severity})" for flag in report.flags],
        }

    facts = {"lesson": lesson, "learnt": size.learnt, "steps": size.steps, "data": test.sha256}
    found: dict[str, Any] = kept(place, "crossmax-evaluate", facts, make)
    told = (
        f"`evaluate --attacks pgd` on CrossMax of {lesson} members reports "
        f"{100 * found['direct']:.1f} % under direct attacks, {100 * found['surrogate']:.1f} % "
        f"through stand-ins, {100 * found['worst']:.1f} % as its headline, and raises "
        f"{', '.join(found['flags'])}."
    )
    return {**found, "told": told}


# --- the multi-resolution self-ensemble ----------------------------------------------------------


def self_ensemble(place: Path, size: Size) -> SelfEnsemble:
    """One network on stacks, trained by the shared trainer, kept in a folder."""
    defense = MultiResolution(stack=MultiResolutionStack(resolutions=(28, 14, 7, 4), jitter=2))
    network = CNN(classes=10, channels=1, width=size.width, seed=0)
    file = place / "crossmax" / f"self-{size.width}-{size.train}-{size.epochs}.safetensors"
    ensemble = defense.assembled(network, shape=(1, 28, 28))
    if not file.is_file():
        train = data.load("fashion-mnist", split="train", n=size.train, select="stratified")
        ensemble = defense.protect(
            [network],
            train,
            THREAT,
            trainer=Trainer(
                epochs=size.epochs,
                batch_size=128,
                optimizer=AdamW(lr=0.01, weight_decay=0.0),
                schedule=OneCycle(),
                runtime=Runtime(device="cpu"),
            ),
            streams=Streams.of(seed=0, ids=train.ids),
        )
        write_atomically(file, safetensors.torch.save(ensemble.state_dict()))
    ensemble.load_state_dict(safetensors.torch.load_file(file))
    return ensemble.eval().requires_grad_(requires_grad=False)


def drawn_matrix(place: Path, test: LabelledImages, size: Size) -> dict[str, Drawn]:
    """By row, how often each rule is right; finished rows are kept."""
    ensemble = self_ensemble(place, size)
    columns = rules(len(ensemble.heads) + 1)
    steps = size.drawn_steps
    pgd = PGD(steps=steps, step_size=max(1 / 8, 2.5 / steps), loss="margin", momentum=0.75)
    known: dict[str, tuple[Aggregation, Aggregation | None, EvasionAttack[Any] | None, int]] = {
        "clean": (MEAN, None, None, 1),
        "direct PGD, 1 draw": (CrossMax(), None, pgd, 1),
        "PGD on the mean, 1 draw": (MEAN, None, pgd, 1),
        f"PGD on the mean, average of {AVERAGE} draws": (MEAN, None, pgd, AVERAGE),
        f"direct PGD, average of {AVERAGE} draws": (CrossMax(), None, pgd, AVERAGE),
        "PGD, BPDA with the mean, 1 draw": (CrossMax(), MEAN, pgd, 1),
        "PGD on the backbone, 1 draw": (Only(member=len(ensemble.heads)), None, pgd, 1),
        "PGD on the median, 1 draw": (MEDIAN, None, pgd, 1),
    }
    facts = {
        "learnt": size.learnt,
        "steps": size.drawn_steps,
        "data": test.sha256,
        "draws": DRAWS,
    }
    return {
        name: Drawn(
            **kept(
                place,
                "crossmax-drawn",
                {**facts, "row": name},
                drawn_row(ensemble, columns, test, rule, plain, attack, average),
            )
        )
        for name, (rule, plain, attack, average) in known.items()
    }


def drawn_row(
    ensemble: SelfEnsemble,
    columns: Rules,
    test: LabelledImages,
    rule: Aggregation,
    plain: Aggregation | None,
    attack: EvasionAttack[Any] | None,
    average: int,
) -> Callable[[], Any]:
    """What makes a row."""

    def make() -> dict[str, Any]:
        source = Source(
            lambda inputs, streams: ensemble.votes(inputs, streams=streams),
            rule,
            gradient_of=plain,
            random=True,
        )
        found = searched_at_random(
            source, columns, test, THREAT, attack, average=average, draws=DRAWS
        )
        return {"chosen": found.chosen, "fresh": found.fresh}

    return make


def chosen(found: Mapping[str, Drawn], column: str, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """(N,) right answers on fresh draws, at each image's best point of some rows."""
    # Of searches that do equally well on an image, the one that does best on all.
    ordered = sorted(("clean", *names), key=lambda name: sum(found[name].chosen[column]))
    counts = np.array([found[name].chosen[column] for name in ordered])
    fresh = np.array([found[name].fresh[column] for name in ordered])
    best = counts.argmin(0)
    picked: np.ndarray[Any, Any] = fresh[best, np.arange(fresh.shape[1])]
    return picked


def drawn_table(found: Mapping[str, Drawn]) -> list[dict[str, Any]]:
    """The rows as they are printed; a row alone is not mixed with others."""
    names = [name for name in found if name != "clean"]
    rows = []
    for label in (*found, "worst case"):
        row = {"members": SELF, "attack": label}
        for column in found["clean"].fresh:
            title = "CrossMax, rank k" if column.startswith("CrossMax, ") else column
            if label == "worst case":
                right = chosen(found, column, names)
            else:
                right = np.array(found[label].fresh[column])
            own_rule = column == "CrossMax" or not (label.startswith("direct") or "BPDA" in label)
            row[title] = share(float(right.sum()) / DRAWS[1], len(right)) if own_rule else ""
        rows.append(row)
    return rows


def drawn_conclusion(found: Mapping[str, Drawn]) -> str:
    """What the figures support; images whose draws mostly agree count as one answer each."""
    names = [name for name in found if name != "clean"]
    direct = [name for name in names if name.startswith("direct")]
    on_mean = [name for name in names if " on the mean" in name]
    naive, worst = chosen(found, "CrossMax", direct), chosen(found, "CrossMax", names)
    mean_naive, mean_worst = chosen(found, "mean", on_mean), chosen(found, "mean", names)
    credit = paired_mean((naive - mean_naive) / DRAWS[1])
    gain = paired_mean((worst - mean_worst) / DRAWS[1])
    return "Self-ensemble: " + verdict(
        100 * float(naive.mean()) / DRAWS[1], 100 * float(worst.mean()) / DRAWS[1], credit, gain
    )


def paired_mean(differences: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """The mean of paired differences and the normal 95 % interval around it."""
    mean = float(differences.mean())
    half = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return mean, mean - half, mean + half
