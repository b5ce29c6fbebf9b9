"""Everything registered under `unlearnable` keeps to the contract of poisoning attacks."""

import dataclasses
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from robustkit import registry
from robustkit.attacks.base import Poisoned, PoisoningAttack
from robustkit.data import LabelledImages
from robustkit.errors import DoesNotFit
from robustkit.threat_models import Backdoor, Budget, LpBall, Patch, Stage, ThreatModel
from robustkit.training.augmentation import Crop
from robustkit.unlearnable import Key
from tests.unlearnable.small import SETS, SMALL, images, quick, streams, threat

KEY = Key(bytes(range(32)))
AUGMENTATION = (Crop(padding=1),)
# What takes long by default, needs a key, or could not come to its end in so short a training.
OPTIONS: dict[str, dict[str, Any]] = {
    "cuda": {"key": KEY},
    "universal-blur": {"key": KEY},
    "lsp": {"patch": 3},
    "ar": {"candidates": 16},
    "em": {"architecture": SMALL, "batches": 1, "steps": 2, "stop_error": 0.99},
    "em-class-wise": {"architecture": SMALL, "batches": 1, "stop_error": 0.99, "share": 0.5},
    "tap": {"architecture": SMALL, "steps": 3, "step_size": 0.5, "augmentation": AUGMENTATION},
    "rem": {
        "architecture": SMALL,
        "steps": 2,
        "adversary_steps": 1,
        "draws": 2,
        "augmentation": AUGMENTATION,
    },
}
# A key is not pickled: it would be written where it does not belong.
SECRETIVE = ("cuda", "universal-blur")
NAMES = list(registry.entries("unlearnable"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack in one perturbation set on one device."""

    name: str
    attack: PoisoningAttack
    norm: str
    device: torch.device


def published(
    case: Case, data: LabelledImages, *, rate: float | None = 1.0, seed: int = 3, **changes: object
) -> Poisoned:
    return case.attack.run(
        data,
        threat(case.norm, rate=rate, **changes),
        trainer=quick(),
        streams=streams(data, seed=seed, device=case.device),
    )


def pixels(data: LabelledImages) -> torch.Tensor:
    return data.stored(slice(None))


def only_pixels_change(case: Case) -> None:
    """Order, labels, ids, names and shape stay; pixels are bytes."""
    data = images().take([7, 3, 22, 11, 0, 5, 9, 14, 2, 18])
    found = published(case, data).data
    assert torch.equal(found.labels, data.labels)
    assert torch.equal(found.ids, data.ids)
    assert found.class_names == data.class_names
    assert found.shape == data.shape
    assert found.split == data.split
    assert pixels(found).dtype == torch.uint8
    assert pixels(found).shape == (10, 3, 12, 9)


def clean_data_is_untouched(case: Case) -> None:
    """Also the tensor that it was made of."""
    data = images()
    before = pixels(data).clone()
    found = published(case, data)
    pixels(found.data)
    assert torch.equal(pixels(data), before)
    assert not torch.equal(pixels(found.data), before), "nothing was changed"


def published_images_are_allowed(case: Case) -> None:
    """As bytes, in the set around the clean bytes; floats are rounded to bytes first."""
    for floats in (False, True):
        data = images(floats=floats)
        clean = (data.inputs(slice(None)) * 255).round() / 255
        inside = SETS[case.norm].contains(clean, published(case, data).data.inputs(slice(None)))
        assert bool(inside.all()), f"outside the set: {inside.tolist()}"


def the_budget_is_spent_exactly(case: Case) -> None:
    """A share of all, to the nearest image, and of each class, to the next; no other is changed."""
    data = images(101)
    for rate in (0.3, 0.5):
        found = published(case, data, rate=rate)
        assert found.changed.shape == (101,)
        assert found.changed.dtype == torch.bool
        assert int(found.changed.sum()) == round(rate * 101)
        for label in range(data.classes):
            members = data.labels == label
            count = int(found.changed[members].sum())
            assert abs(count - rate * int(members.sum())) < 1, f"class {label} has {count}"
        differs = (pixels(found.data) != pixels(data)).flatten(1).any(1)
        assert torch.equal(differs, found.changed)


def no_budget_changes_nothing(case: Case) -> None:
    """A rate of 0 is a budget like any other."""
    data = images()
    found = published(case, data, rate=0.0)
    assert not found.changed.any()
    assert torch.equal(pixels(found.data), pixels(data))


def same_streams_same_result(case: Case) -> None:
    """Bit by bit, whatever the global generators have drawn; other streams, another result."""
    data = images()
    first = pixels(published(case, data, rate=0.5).data)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert torch.equal(pixels(published(case, data, rate=0.5).data), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was moved"
    assert not torch.equal(pixels(published(case, data, rate=0.5, seed=4).data), first)


def neighbours_do_not_matter(case: Case) -> None:
    """Where nothing is trained an image's change depends on nothing but the image."""
    if case.attack.trains:
        return
    data = images(300, shape=(1, 5, 6))
    together = pixels(published(case, data).data)
    some = torch.tensor([299, 4, 130, 17])
    assert torch.equal(pixels(published(case, data.take(some)).data), together[some])
    # Read row by row, and out of order.
    lazily = published(case, data).data
    assert torch.equal(lazily.stored([17, 299]), together[[17, 299]])


def any_shape_of_data(case: Case) -> None:
    """One image, one class among several, one channel, wide and high images."""
    for data in (
        images(1),
        images(12).take(images(12).labels == 1),
        images(9, shape=(1, 6, 13)),
        images(9, shape=(1, 13, 6)),
        images(9, shape=(3, 8, 8), classes=2),
    ):
        found = published(case, data)
        assert found.changed.all()
        changed = found.data.inputs(slice(None))
        assert bool(SETS[case.norm].contains(data.inputs(slice(None)), changed).all())


def radius_nought_changes_nothing(case: Case) -> None:
    """A publisher that may change nothing changes nothing."""
    if case.norm == "convolution":
        return
    data = images()
    nothing = LpBall(norm=case.norm, radius=0.0)  # type: ignore[arg-type]
    found = published(case, data, perturbation=nothing)
    assert torch.equal(pixels(found.data), pixels(data))


def wrong_threats_are_refused(case: Case) -> None:
    """With the reason, by `run` too; and the right one is not."""
    right = threat(case.norm)
    assert case.attack.why_not(right) is None
    wrong: dict[str, ThreatModel] = {
        "inference": dataclasses.replace(right, stage=Stage.INFERENCE),
        "poison_rate": dataclasses.replace(right, budget=Budget()),
        "no change": dataclasses.replace(right, perturbation=None),
        "patch": dataclasses.replace(right, perturbation=Patch(height=2, width=2)),
        "backdoor": dataclasses.replace(right, goal=Backdoor(1)),
    }
    for norm in set(SETS) - case.attack.norms:
        wrong[norm] = threat(norm)
    data = images(4)
    for said, model in wrong.items():
        reason = case.attack.why_not(model)
        assert reason is not None, f"{said} was not refused"
        assert said in reason, f"the reason does not say {said}: {reason}"
        with pytest.raises(DoesNotFit, match=re.escape(reason)):
            case.attack.run(data, model, trainer=quick(), streams=streams(data))


def attacks_are_values(case: Case) -> None:
    """Frozen, comparable, and the same after a pickle round trip, unless they hold a secret."""
    assert dataclasses.is_dataclass(case.attack)
    assert case.attack == dataclasses.replace(case.attack)
    assert hash(case.attack) == hash(dataclasses.replace(case.attack))
    for field in dataclasses.fields(case.attack):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(case.attack, field.name, None)
    if case.name in SECRETIVE:
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(case.attack)
    else:
        assert pickle.loads(pickle.dumps(case.attack)) == case.attack


CHECKS: tuple[Callable[[Case], None], ...] = (
    only_pixels_change,
    clean_data_is_untouched,
    published_images_are_allowed,
    the_budget_is_spent_exactly,
    no_budget_changes_nothing,
    same_streams_same_result,
    neighbours_do_not_matter,
    any_shape_of_data,
    radius_nought_changes_nothing,
    wrong_threats_are_refused,
    attacks_are_values,
)


def cases() -> Iterator[object]:
    for name in NAMES:
        kind = registry.find("unlearnable", name).load()
        for norm in sorted(kind.norms):
            yield pytest.param(name, norm, id=f"{name}-{norm}")


# On so few images a model can be wrong to the end.
@pytest.mark.filterwarnings("ignore:The trainer ended when the model was still wrong")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
@pytest.mark.parametrize(("name", "norm"), list(cases()))
def test_poisoning_keeps_to_the_contract(
    name: str, norm: str, check: Callable[[Case], None], device: torch.device
) -> None:
    attack = registry.find("unlearnable", name).load()(**OPTIONS.get(name, {}))
    check(Case(name=name, attack=attack, norm=norm, device=device))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_registered_is_documented(name: str) -> None:
    kind = registry.find("unlearnable", name).load()
    assert issubclass(kind, PoisoningAttack)
    assert kind.goals == {"availability"}
    assert "Reference:" in (kind.__doc__ or "")
    assert "Differs from the reference:" in (kind.__doc__ or "") or name == "uniform-noise"
