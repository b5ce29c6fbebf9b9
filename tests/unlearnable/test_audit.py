"""The trainings that an audit needs, what they are compared with, and how they go on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from robustkit.data import LabelledImages
from robustkit.training import SGD, Runtime, Step, Trainer
from robustkit.unlearnable.audit import (
    CLEAN,
    ON_CLEAN,
    PUBLISHED,
    UNIVERSAL,
    Audit,
    Course,
    Findings,
    Material,
    alone_words,
    courses,
    in_part,
    mixed_words,
)
from robustkit.unlearnable.keyed import with_key
from robustkit.unlearnable.learners import build
from robustkit.unlearnable.outcomes import Kept
from robustkit.unlearnable.summary import summary
from tests.training.tiny import Smooth, tiny_data

LEARNERS = {name: build(name) for name in ("erm", "jpeg")}


def publish(images: LabelledImages) -> LabelledImages:
    """Dark images, but for one column in each, whose place is that of the class."""
    stored = (images.inputs(slice(None)) * 50).round()
    stored[torch.arange(len(images)), :, :, images.labels] = 255
    return LabelledImages.from_tensors(
        stored.byte(),
        images.labels,
        spec="published",
        split=images.split,
        class_names=images.class_names,
    )


def material() -> Material:
    clean, test = tiny_data(48), tiny_data(30, seed=9)
    return with_key(publish(clean), clean, test, publish)


def audit(kept: Kept | None = None, **changes: object) -> Audit:
    made = Audit(
        learners=LEARNERS,
        network=lambda seed: Smooth(seed=seed),
        trainer=Trainer(
            epochs=2, batch_size=16, optimizer=SGD(lr=0.2), runtime=Runtime(device="cpu")
        ),
        shares=(0.5, 1.0),
        kept=kept or Kept(None),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def packed(findings: Findings) -> list[object]:
    """All figures but the times."""
    tables = [
        (name, [one.packed() for one in outcomes]) for name, outcomes in findings.outcomes.items()
    ]
    for _, several in tables:
        for one in several:
            del one["seconds"], one["cpu_seconds"]
    return list(tables)


def test_every_learner_stands_beside_its_control() -> None:
    planned = courses(material(), ["erm", "jpeg"], (0.5, 1.0), 0)
    assert [(course.learner, course.on) for course in planned] == [
        *(("erm", PUBLISHED), ("erm", CLEAN), ("jpeg", PUBLISHED), ("jpeg", CLEAN)),
        *(("erm", UNIVERSAL), ("erm", mixed_words(0.5)), ("erm", alone_words(0.5))),
    ]
    assert [course.keyed for course in planned] == [True, False, True, False, False, False, False]
    unkeyed = dataclasses.replace(material(), universal=None, keyed={})
    assert all(course.on != UNIVERSAL for course in courses(unkeyed, ["erm"], (), 0))


def test_a_part_is_even_over_the_classes_and_the_rest_is_clean() -> None:
    images = material()
    mixed, alone = courses(images, ["erm"], (0.5,), 0)[-2:]
    stored, published = mixed.data.stored(slice(None)), images.published.stored(slice(None))
    clean = (images.originals.inputs(slice(None)) * 255).round().byte()
    changed = (stored == published).flatten(1).all(1)
    assert torch.equal(stored[~changed], clean[~changed])
    assert torch.bincount(images.published.labels[changed]).tolist() == [8, 8, 8]
    assert torch.equal(alone.data.ids, images.originals.ids[~changed])
    assert torch.equal(mixed.data.ids, images.originals.ids)


def test_clean_images_alone_are_trained_on_for_as_many_steps() -> None:
    mixed, alone = courses(material(), ["erm"], (0.5,), 0)[-2:]
    assert (mixed.longer, alone.longer) == (1.0, 2.0)
    found = audit().run(material())
    epochs = {on: outcomes[0].epochs for (_, on), outcomes in found.outcomes.items()}
    assert epochs[mixed_words(0.5)] == 2
    assert epochs[alone_words(0.5)] == 4


def test_a_schedule_is_stretched_with_the_epochs() -> None:
    seen = []

    class Spy(Audit):
        def _train(self, lesson, *rest):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN002, ANN202
            seen.append((lesson.trainer.epochs, lesson.trainer.schedule.milestones))
            return super()._train(lesson, *rest)

    plain = audit()
    trainer = dataclasses.replace(plain.trainer, schedule=Step(milestones=(1,)))
    Spy(learners={"erm": build("erm")}, network=plain.network, trainer=trainer, shares=(0.5,)).run(
        material()
    )
    assert seen == [(2, (1,))] * 4 + [(4, (2,))]


def test_the_same_audit_gives_the_same_figures() -> None:
    assert packed(audit().run(material())) == packed(audit().run(material()))


def test_seeds_repeat_everything_with_other_networks() -> None:
    found = audit(seeds=2, shares=()).run(material())
    assert all(len(outcomes) == 2 for outcomes in found.outcomes.values())
    one = audit(seeds=1, shares=()).run(material())
    assert packed(one)[0][1] == packed(found)[0][1][:1]  # type: ignore[index]
    rows = summary(found, LEARNERS, 3).learners
    assert all(len(row.seeds) == 2 for row in rows)


def test_finished_trainings_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packed(audit().run(material()))
    train, calls = Audit._train, 0

    def stop(self: Audit, *rest: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return train(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Audit, "_train", stop)
    with pytest.raises(KeyboardInterrupt):
        audit(Kept(tmp_path)).run(material())
    assert len(list(tmp_path.rglob("*.json"))) == 3
    assert packed(audit(Kept(tmp_path)).run(material())) == whole
    assert calls == 4 + len(whole) - 3
    assert packed(audit(Kept(tmp_path)).run(material())) == whole
    assert calls == 4 + len(whole) - 3


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"network": lambda seed: Smooth(seed=seed + 5)},
        {"trainer": Trainer(epochs=1, batch_size=16, runtime=Runtime(device="cpu"))},
        {"learners": {"erm": build("crop-flip")}},
    ],
)
def test_another_audit_finds_nothing_that_it_could_take(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    small = {"learners": {"erm": build("erm")}, "shares": ()}
    audit(Kept(tmp_path), **small).run(material())
    before = {path.name for path in tmp_path.rglob("*.json")}
    audit(Kept(tmp_path), **{**small, **changes}).run(material())
    assert len({path.name for path in tmp_path.rglob("*.json")}) == 2 * len(before)


def test_tests_under_the_key_tell_what_was_learnt() -> None:
    """A column that gives the class away is all that plain training needs."""
    images = material()
    assert torch.equal(images.keyed["permuted key"].labels, images.test.labels)
    long = audit(
        learners={"erm": build("erm")},
        shares=(),
        trainer=dataclasses.replace(audit().trainer, epochs=40),
    )
    (row,) = summary(long.run(images), {"erm": build("erm")}, 3).learners
    assert row.same_key is not None
    assert row.permuted_key is not None
    assert row.same_key.value > 0.95
    assert row.permuted_key.value < 0.2
    assert row.last.value < row.reference.value - 0.2


def test_one_change_for_all_tells_nothing() -> None:
    universal = material().universal
    assert universal is not None
    assert bool((universal.stored(slice(None))[:, 0, :, 0] == 255).all())
    assert int(universal.stored(slice(None))[:, 0, :, 1:].max()) <= 50
    assert torch.equal(universal.labels, material().originals.labels)


def test_summaries_count_every_training() -> None:
    found = audit().run(material())
    total = summary(found, LEARNERS, 3)
    outcomes = [one for several in found.outcomes.values() for one in several]
    assert total.cost.forward == sum(one.passes.forward for one in outcomes)
    (half, full) = total.partial
    assert half.alone is not None
    assert half.difference is not None
    assert half.difference.value == pytest.approx(half.mixed.value - half.alone.value)
    assert (full.alone, full.difference) == (None, None)
    assert full.mixed == total.learners[0].last
    row = total.learners[1]
    clean = found.outcomes["jpeg", CLEAN][0].right[ON_CLEAN]
    assert row.reference.value == clean.mean()
    assert row.difference.value == pytest.approx(row.last.value - row.reference.value)


def test_courses_are_values() -> None:
    images = material()
    assert Course(learner="erm", on=CLEAN, data=images.test, originals=images.test).longer == 1
    assert len(in_part(images.published, images.originals, torch.zeros(48, dtype=torch.bool))) == 48
