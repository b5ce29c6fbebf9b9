"""The audit of published data: a battery of learners, each beside its control on clean data."""

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.data.computing import as_bytes, computed
from robustkit.randomness import Streams
from robustkit.training import Step, Trainer
from robustkit.training.describing import describe, identity
from robustkit.training.mixing import Pool
from robustkit.unlearnable.choosing import halves
from robustkit.unlearnable.examining import Bill, Examiner, Progress, Silent, right
from robustkit.unlearnable.learners.base import Learner, Lesson
from robustkit.unlearnable.outcomes import Bits, Kept, Outcome
from robustkit.unlearnable.share import stratified

PUBLISHED, CLEAN, UNIVERSAL = "published data", "clean data", "one change for all"
PLAIN = "erm"
# Names of tests.
ON_CLEAN, SAME_KEY, PERMUTED_KEY = "clean", "same key", "permuted key"
# Of what is kept; larger when a finished training would no longer be the same.
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Material:
    """The images that an audit is about.

    Attributes:
        published: The training images as they were published.
        originals: What they were made from, in the same order.
        test: Clean test images.
        keyed: Test images changed as the published ones were: under the same key, and as if each
            were of another class; empty where the key is not known.
        universal: The originals, all changed as those of one class; None likewise.
    """

    published: LabelledImages
    originals: LabelledImages
    test: LabelledImages
    keyed: Mapping[str, LabelledImages] = field(default_factory=dict)
    universal: LabelledImages | None = None


@dataclass(frozen=True, kw_only=True)
class Course:
    """One training that an audit needs, in every seed.

    Attributes:
        learner: Who trains.
        on: What on, in words.
        data: The same in images.
        originals: What they were made from.
        keyed: Whether tests under the key are of interest.
        longer: How many times as many epochs, where the data is so much smaller than that with
            which it is compared: both take as many steps.
    """

    learner: str
    on: str
    data: LabelledImages
    originals: LabelledImages
    keyed: bool = False
    longer: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an audit has found.

    Attributes:
        outcomes: By learner and what it trained on, one outcome for each seed.
        choosing: (N,) bool: the test images by which epochs and the learner are chosen.
        shares: Those of published images in the sets that only in part are.
    """

    outcomes: Mapping[tuple[str, str], Sequence[Outcome]]
    choosing: Bits
    shares: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that a training of an audit depends on but the images.

    Attributes:
        learners: By name; `erm` must be among them.
        network: Makes a new network from a seed.
        trainer: How all of them train, but for what is a learner's own.
        shares: Of published images in sets that only in part are, for plain training.
        seed: Of the first training, and of the choice of images.
        seeds: How often everything is repeated.
        kept: Where finished trainings are kept.
        progress: Who is told.
    """

    learners: Mapping[str, Learner]
    network: Callable[[int], nn.Module]
    trainer: Trainer
    shares: Sequence[float] = ()
    seed: int = 0
    seeds: int = 1
    kept: Kept = field(default_factory=lambda: Kept(None))
    progress: Progress = field(default_factory=Silent)

    def run(self, material: Material) -> Findings:
        """Train everybody on everything.

        Raises:
            BadInput: Network, images and settings do not fit each other, or a training becomes NaN
                at once.
            CannotWrite: The disk is full; what is finished is kept.
        """
        choosing = halves(material.test, self.seed)
        planned = [
            (course, seed)
            for course in courses(material, list(self.learners), self.shares, self.seed)
            for seed in range(self.seed, self.seed + self.seeds)
        ]
        outcomes: dict[tuple[str, str], list[Outcome]] = {}
        for number, (course, seed) in enumerate(planned, start=1):
            title = f"{number}/{len(planned)} {course.learner} on {course.on}"
            outcome = self._outcome(course, seed, material, choosing, title)
            outcomes.setdefault((course.learner, course.on), []).append(outcome)
        return Findings(outcomes=outcomes, choosing=choosing, shares=self.shares)

    def _outcome(
        self, course: Course, seed: int, material: Material, choosing: Bits, title: str
    ) -> Outcome:
        """One training, made only if it has not been finished before."""
        learner = self.learners[course.learner]
        lesson = Lesson(
            data=course.data,
            originals=course.originals,
            network=lambda: self.network(seed),
            trainer=dataclasses.replace(_stretched(self.trainer, course.longer), seed=seed),
        )
        tests = {ON_CLEAN: material.test, **(material.keyed if course.keyed else {})}
        network = learner.network(lesson)
        known = self._identity(lesson, learner, network, tests, choosing)
        chooser = material.test.take(torch.from_numpy(choosing))
        return self.kept.find(known) or self.kept.made(
            known, lambda: self._train(lesson, learner, network, tests, chooser, title)
        )

    def _identity(
        self,
        lesson: Lesson,
        learner: Learner,
        network: nn.Module,
        tests: Mapping[str, LabelledImages],
        choosing: Bits,
    ) -> dict[str, Any]:
        """Everything that the outcome depends on, as JSON."""
        names = [name for name, _ in network.named_parameters()]
        return {
            "format": _FORMAT,
            "versions": {name: importlib.metadata.version(name) for name in ("robustkit", "torch")},
            "learner": describe(learner),
            "originals": _content(lesson.originals),
            "tests": {name: _content(images) for name, images in tests.items()},
            "choosing": describe(torch.from_numpy(choosing)),
            "device": lesson.trainer.runtime.device,
            "training": identity(
                lesson.trainer,
                network,
                learner.loss(),
                names,
                data=lesson.data,
                pool=Pool(lesson.data, None),
            ),
        }

    def _train(
        self,
        lesson: Lesson,
        learner: Learner,
        network: nn.Module,
        tests: Mapping[str, LabelledImages],
        chooser: LabelledImages,
        title: str,
    ) -> Outcome:
        """Train a network and see what it has right."""
        clock, process = time.perf_counter(), time.process_time()
        with lesson.trainer.runtime.open() as session:
            network.to(session.device)
        examiner = Examiner(network, chooser, name=title, progress=self.progress)
        bill = Bill()
        with bill.counting(network):
            trainer = dataclasses.replace(learner.trainer(lesson), progress=examiner)
            result = trainer.fit(
                network, lesson.data, learner.loss(), parameters=learner.parameters(network)
            )
            found = {name: right(network, images) for name, images in tests.items()}
            best = examiner.best or result.last
            after = found[ON_CLEAN]
            if best.epoch != result.last.epoch:
                best.load_into(network)
                after = right(network, tests[ON_CLEAN])
        return Outcome(
            right=found,
            best=after,
            best_epoch=best.epoch,
            epochs=trainer.epochs,
            stopped_by=result.stopped_by,
            passes=bill.passes,
            seconds=time.perf_counter() - clock,
            cpu_seconds=time.process_time() - process,
        )


def courses(
    material: Material, learners: Sequence[str], shares: Sequence[float], seed: int
) -> list[Course]:
    """The trainings that an audit needs, the control of each after it.

    Args:
        material: The images.
        learners: The names of all learners.
        shares: See `Audit`.
        seed: Of the choice of images that are published in a set that only in part is.
    """
    published, clean = material.published, material.originals
    found = []
    for name in learners:
        found.append(
            Course(learner=name, on=PUBLISHED, data=published, originals=clean, keyed=True)
        )
        found.append(Course(learner=name, on=CLEAN, data=clean, originals=clean))
    if material.universal is not None:
        found.append(Course(learner=PLAIN, on=UNIVERSAL, data=material.universal, originals=clean))
    for share in shares:
        mask = _published_part(published, share, seed)
        if bool(mask.all()):
            continue  # all of it has been trained on already
        mixed, alone = in_part(published, clean, mask), clean.take(~mask)
        found.append(Course(learner=PLAIN, on=mixed_words(share), data=mixed, originals=clean))
        found.append(
            Course(
                learner=PLAIN,
                on=alone_words(share),
                data=alone,
                originals=alone,
                longer=len(published) / len(alone),
            )
        )
    return found


def _stretched(trainer: Trainer, factor: float) -> Trainer:
    """The same training over more epochs, its schedule with it."""
    if factor == 1:
        return trainer
    schedule = trainer.schedule
    if isinstance(schedule, Step):
        milestones = tuple(round(factor * epoch) for epoch in schedule.milestones)
        schedule = dataclasses.replace(schedule, milestones=milestones)
    return dataclasses.replace(trainer, epochs=round(factor * trainer.epochs), schedule=schedule)


def mixed_words(share: float) -> str:
    """What a set is called of which this share is published data."""
    return f"{100 * share:g} % published"


def alone_words(share: float) -> str:
    """What the rest of such a set is called by itself."""
    return f"the clean {100 - 100 * share:g} % alone"


def _published_part(data: LabelledImages, share: float, seed: int) -> Tensor:
    """(N,) bool: which images are published, the same share of every class."""
    streams = Streams.of(seed=seed, ids=data.ids, purpose="partly published")
    return stratified(data.labels, share, streams)


def in_part(published: LabelledImages, clean: LabelledImages, mask: Tensor) -> LabelledImages:
    """Published images where the mask, (N,) bool, says so, and clean ones elsewhere; in bytes."""

    def change(stored: Tensor, rows: Tensor) -> Tensor:
        images, there = as_bytes(stored).clone(), mask[rows]
        if bool(there.any()):
            images[there] = as_bytes(published.stored(rows[there]))
        return images

    return computed(clean, change, spec=f"{published.spec}, in part")


def _content(images: LabelledImages) -> dict[str, str]:
    return {"sha256": images.sha256, "ids": describe(images.ids)}
