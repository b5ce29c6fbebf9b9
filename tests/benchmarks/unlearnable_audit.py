"""What can be learnt from CUDA data after all: the audit on Fashion-MNIST. Every learner is trained
on the published images (the authors' filters of seed 0, 3 x 3, p_b 0.3) and on their originals, and
tested on the same clean test images. "Last" is after the last epoch on all of them, "best" at the
epoch that did best on one half of them, measured on the other half. "Recovered" is "last" as a
share of "originals", both above chance. Beside them the figures published for CIFAR-10 and a
ResNet-18, where there are any. Sets that are published in part only: plain training on the mixture,
and in the column "originals" plain training on its clean images alone, in as many steps. Wilson's
intervals over the images, Tango's for pairs (image, seed), Fieller's for ratios. Cost is that of
all trainings on the published data, tests included."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustkit import data, threat_models
from robustkit.data import LabelledImages
from robustkit.models import CNN
from robustkit.randomness import Streams
from robustkit.report.unlearnable import LearnerRow, PartialRow
from robustkit.statistics import Interval
from robustkit.training import SGD, OneCycle, Runtime, Trainer
from robustkit.unlearnable import ConvolutionUnlearnable
from robustkit.unlearnable.audit import (
    CLEAN,
    ON_CLEAN,
    PERMUTED_KEY,
    PLAIN,
    PUBLISHED,
    SAME_KEY,
    UNIVERSAL,
    Audit,
    Findings,
    Material,
    mixed_words,
)
from robustkit.unlearnable.choosing import accuracy, mean
from robustkit.unlearnable.keyed import with_key
from robustkit.unlearnable.learners import L2Training, Learner, LinfTraining, build
from robustkit.unlearnable.outcomes import Bits, Kept
from robustkit.unlearnable.summary import Summary, difference, summary
from tests.benchmarks.keeping import folder

TITLE = "Unlearnable data: what the audit finds"

# Sadasivan, Soltanolkotabi, Feizi, CVPR 2023, tables 2 to 5; RSK+FF: Kim, Sandoval-Segura, 2024;
# COIN: the mean over four networks, Li, Wang et al., AAAI 2025.
PUBLISHED_FIGURES: Mapping[str, str] = {
    "erm": "18.48 (clean 94.66)",
    "mixup": "25.53",
    "cutmix": "26.93",
    "adversarial-linf:8/255": "32.85",
    "adversarial-linf:16/255": "19.32",
    "adversarial-l2:0.5": "51.19",
    "rsk-ff": "78.53",
    "coin": "72.41",
    "one change for all": "90.47",
    "20 % published": "93.28; 93.75 alone",
    "80 % published": "85.61; 84.30 alone",
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the defaults are the benchmark's."""

    train: int = 8000
    test: int = 5000
    epochs: int = 6
    seeds: int = 3
    steps: int = 3
    shares: tuple[float, ...] = (0.2, 0.8)
    repeated: tuple[str, ...] = ("erm", "rsk-ff")
    once: tuple[str, ...] = (
        "coin",
        "key-leak",
        "crop-flip",
        "mixup",
        "cutmix",
        "jpeg",
        "ueraser",
    )
    projected: tuple[str, ...] = ("orthogonal-projection",)


def run(size: Size | None = None) -> dict[str, Any]:
    """The audit: some learners in all seeds, the others in the first."""
    size = size or Size()
    images = material(size)
    cheap = {name: build(name) for name in size.repeated}
    everything = {**cheap, **others(size)}
    with folder() as place:
        kept = Kept(place)
        repeated = audit(cheap, size, kept).run(images)
        once = dataclasses.replace(audit(everything, size, kept), shares=(), seeds=1).run(images)
    classes = images.test.classes
    found, whole = summary(repeated, cheap, classes), summary(once, everything, classes)
    rows = [row for row in whole.learners if row.name not in cheap]
    return {
        "rows": [
            *(learner_row(row) for row in (*found.learners, *rows)),
            universal_row(repeated),
            *(partial_row(row) for row in found.partial),
        ],
        "conclusions": conclusions(repeated, once, found, whole),
        "setting": (
            f"convolutional network of width 8; {size.train:,} training and {size.test:,} test "
            f"images, {found.best.n:,} of them to choose by; {size.epochs} epochs; adversarial "
            f"training with {size.steps} steps; {', '.join(size.repeated)}, one change for all and "
            f"the parts in {size.seeds} seeds, all others in one"
        ),
    }


def material(size: Size) -> Material:
    """The published images and all others."""
    clean = data.load("fashion-mnist", split="train", n=size.train, select="stratified")
    method = ConvolutionUnlearnable(legacy_seed=0)
    threat = threat_models.load("unlearnable")

    def publish(images: LabelledImages) -> LabelledImages:
        streams = Streams.of(seed=0, ids=images.ids, purpose="unlearnable")
        return method.run(images, threat, trainer=Trainer(), streams=streams).data

    return with_key(publish(clean), clean, data.load("fashion-mnist", n=size.test), publish)


def others(size: Size) -> dict[str, Learner]:
    """The learners of the first seed alone."""
    return {
        **{name: build(name) for name in size.once},
        "adversarial-linf:8/255": LinfTraining(eps=8 / 255, steps=size.steps),
        "adversarial-linf:16/255": LinfTraining(eps=16 / 255, steps=size.steps),
        "adversarial-l2:0.5": L2Training(eps=0.5, steps=size.steps),
        **{name: build(name) for name in size.projected},
    }


def audit(learners: Mapping[str, Learner], size: Size, kept: Kept) -> Audit:
    """All seeds, with the parts."""
    return Audit(
        learners=learners,
        network=lambda seed: CNN(classes=10, channels=1, width=8, seed=seed),
        trainer=Trainer(
            epochs=size.epochs,
            optimizer=SGD(lr=0.1, nesterov=True),
            schedule=OneCycle(),
            clip=5.0,
            runtime=Runtime(device="cpu", channels_last=True),
        ),
        shares=size.shares,
        seeds=size.seeds,
        kept=kept,
    )


# Rows of the table.


def learner_row(row: LearnerRow) -> dict[str, Any]:
    """One learner."""
    return {
        "learner or set": row.name,
        "last, %": told(row.last),
        "best, %": told(row.best),
        "originals, %": told(row.reference),
        "recovered, %": "none" if row.recovered is None else told(row.recovered),
        "same key, %": "" if row.same_key is None else told(row.same_key),
        "permuted key, %": "" if row.permuted_key is None else told(row.permuted_key),
        "CIFAR-10, published": PUBLISHED_FIGURES.get(row.name, ""),
        "seeds": len(row.seeds),
        "forward": f"{row.forward:,}",
        "backward": f"{row.backward:,}",
        "CPU s": f"{row.cpu_seconds:.0f}",
    }


def universal_row(findings: Findings) -> dict[str, Any]:
    """Plain training on images that all went through one filter."""
    outcomes = findings.outcomes[PLAIN, UNIVERSAL]
    bits = [outcome.right[ON_CLEAN] for outcome in outcomes]
    return {
        **bare_row("one change for all"),
        "last, %": told(accuracy(mean(bits))),
        "best, %": told(accuracy(mean([one.best[~findings.choosing] for one in outcomes]))),
        "seeds": len(outcomes),
    }


def partial_row(row: PartialRow) -> dict[str, Any]:
    """Plain training where a part only is published."""
    return {
        **bare_row(mixed_words(row.published)),
        "last, %": told(row.mixed),
        "originals, %": "" if row.alone is None else told(row.alone),
    }


def bare_row(name: str) -> dict[str, Any]:
    """A row of a set, not of a learner."""
    columns = ("last", "best", "originals", "recovered", "same key", "permuted key")
    return {
        "learner or set": name,
        **{f"{column}, %": "" for column in columns},
        "CIFAR-10, published": PUBLISHED_FIGURES.get(name, ""),
        **dict.fromkeys(("seeds", "forward", "backward", "CPU s"), ""),
    }


def told(share: Interval) -> str:
    """A share with its interval, in per cent."""
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


# What follows.


def conclusions(repeated: Findings, once: Findings, found: Summary, whole: Summary) -> list[str]:
    """Whether the orderings of the paper hold here, each by its interval."""
    published, universal, clean = (
        right(repeated, PLAIN, on) for on in (PUBLISHED, UNIVERSAL, CLEAN)
    )
    same, permuted = (right(repeated, PLAIN, PUBLISHED, test) for test in (SAME_KEY, PERMUTED_KEY))
    return [
        ordering("plain training on CUDA data < on one filter for all", universal, published),
        ordering("plain training on one filter for all < on the originals", clean, universal),
        ordering("CUDA data on clean test images < on those under the same key", same, published),
        ordering("CUDA data under permuted filters < on clean test images", published, permuted),
        *(part(row, repeated, published) for row in found.partial),
        *counter_measures(once, whole),
        best(whole),
    ]


def right(findings: Findings, learner: str, on: str, test: str = ON_CLEAN) -> list[Bits]:
    """What the networks of all seeds have right."""
    return [outcome.right[test] for outcome in findings.outcomes[learner, on]]


def ordering(claim: str, larger: Sequence[Bits], smaller: Sequence[Bits]) -> str:
    """A claim, and whether the interval of the difference bears it out."""
    apart = difference(larger, smaller)
    holds = "holds" if apart.low > 0 else "does not hold" if apart.high < 0 else "is open"
    return f"{claim}: {holds}, by {points(apart)}."


def part(row: PartialRow, findings: Findings, published: Sequence[Bits]) -> str:
    """What is left of the effect where a part only is published."""
    mixed = right(findings, PLAIN, mixed_words(row.published))
    back = difference(mixed, published)
    alone = (
        ""
        if row.difference is None
        else (
            f"; the published images {verb(row.difference)} whoever has the clean ones, by "
            f"{points(row.difference)}"
        )
    )
    return f"{mixed_words(row.published)}: {points(back)} above all of it published{alone}."


def verb(apart: Interval) -> str:
    """Whether something helps or harms."""
    return "help" if apart.low > 0 else "harm" if apart.high < 0 else "make no clear difference to"


def counter_measures(findings: Findings, whole: Summary) -> list[str]:
    """Which learners get more out of CUDA data than plain training does."""
    plain = right(findings, PLAIN, PUBLISHED)
    gains = {
        row.name: difference(right(findings, row.name, PUBLISHED), plain)
        for row in whole.learners
        if row.name != PLAIN
    }
    shares = {row.name: row.recovered for row in whole.learners}

    def listed(names: Sequence[str]) -> str:
        return "; ".join(
            f"{name} {points(gains[name])}"
            + ("" if (share := shares[name]) is None else f", recovered {told(share)} %")
            for name in sorted(names, key=lambda name: -gains[name].value)
        )

    better = [name for name, gain in gains.items() if gain.low > 0]
    rest = [name for name in gains if name not in better]
    return [
        f"Better than plain training on CUDA data, first seed: {listed(better) or 'none'}.",
        f"Not clearly better: {listed(rest) or 'none'}.",
    ]


def best(whole: Summary) -> str:
    """The verdict."""
    return (
        f"Verdict of the first seed: {told(whole.choice.scored)} % by {whole.choice.name}, chosen "
        f"on {whole.best.n:,} images and scored on others, where it is right on "
        f"{told(whole.best.reference)} % when trained on the originals."
    )


def points(apart: Interval) -> str:
    """A difference in points."""
    return f"{100 * apart.value:+.1f} points ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})"
