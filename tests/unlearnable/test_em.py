"""EM: what it publishes is learnt already, for the noise and not for the images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustkit import data as sources
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, RobustkitWarning
from robustkit.threat_models import LpBall
from robustkit.training import SGD, Trainer
from robustkit.unlearnable import EM, EMClassWise
from robustkit.unlearnable.em import ErrorMinimisation
from robustkit.unlearnable.moving import Noise
from tests.unlearnable.small import NARROW, SMALL, Watched, accuracy, images, streams, threat

WIDE = threat("linf", perturbation=LpBall(norm="linf", radius=0.15))


def watched(**options: Any) -> Watched:  # noqa: ANN401
    return Watched(batch_size=32, optimizer=SGD(lr=0.1), seed=1, **options)


def digits(n: int) -> LabelledImages:
    return sources.load("digits", split="train", n=n)


def test_the_error_under_noise_falls_below_the_threshold() -> None:
    """And that on the images without their noise does not: it is the noise that is learnt."""
    data = digits(300)
    trainer = watched(epochs=20)
    # It would warn, which is an error here, if it ended above the threshold.
    found = EM(architecture=NARROW, batches=4, steps=10, step_size=0.2).run(
        data, WIDE, trainer=trainer, streams=streams(data)
    )
    model, result = trainer.__dict__["model"], trainer.__dict__["result"]
    assert "under noise" in result.stopped_by
    assert len(result.history) < 20
    # Counted anew, on what is published and by the model as the trainer left it.
    assert accuracy(model, found.data.inputs(slice(None)), data.labels) > 0.95
    assert accuracy(model, data.inputs(slice(None)), data.labels) < 0.8


def test_the_noise_of_a_class_is_one_pattern() -> None:
    grey = torch.full((60, 1, 8, 8), 128, dtype=torch.uint8)
    data = LabelledImages.from_tensors(grey, torch.arange(60) % 3)
    attack = EMClassWise(architecture=SMALL, batches=1, stop_error=0.5, step_size=0.3)
    found = attack.run(data, WIDE, trainer=watched(epochs=30), streams=streams(data))
    change = found.data.stored(slice(None)).int() - 128
    assert all(torch.equal(change[row], change[row % 3]) for row in range(60))
    assert not torch.equal(change[0], change[1])
    assert int(change.abs().max()) > 2


def test_a_class_takes_the_mean_of_its_members() -> None:
    data = images(6, classes=2)
    noise = Noise(data, torch.tensor([0, 0, 1, 1, 1, 0]))
    changes = torch.rand(4, *data.shape)
    noise.settle(torch.tensor([0, 1, 2, 5]), changes)
    assert torch.allclose(noise.table[0], changes[[0, 1, 3]].mean(0))
    assert torch.equal(noise.table[1], changes[2])
    assert torch.equal(noise.of(torch.tensor([3]))[0], changes[2])


def test_the_trainer_reads_the_images_under_the_noise_as_it_stands() -> None:
    data = images(6)
    noise = Noise(data, torch.arange(6))
    read = noise.images()
    assert torch.equal(read.inputs([2]), data.inputs([2]))
    noise.table[2] = 0.5
    assert torch.equal(read.inputs([2]), (data.inputs([2]) + 0.5).clamp(0, 1))
    assert torch.equal(read.inputs([3]), data.inputs([3]))
    assert torch.equal(read.ids, data.ids)


def test_ending_early_is_told() -> None:
    data = digits(64)
    with pytest.warns(RobustkitWarning, match=r"still wrong on 100\.0% .* Give it more epochs"):
        EM(architecture=SMALL, batches=3).run(
            data, WIDE, trainer=watched(epochs=1), streams=streams(data)
        )


@pytest.mark.filterwarnings("ignore:The trainer ended when the model was still wrong")
def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    data = digits(96)
    attack = EM(architecture=SMALL, batches=2, steps=2, stop_error=0.0)
    whole = attack.run(data, WIDE, trainer=watched(epochs=3), streams=streams(data))

    def part(**options: Any) -> torch.Tensor:  # noqa: ANN401
        trainer = Trainer(
            epochs=3, batch_size=32, optimizer=SGD(lr=0.1), seed=1, out=tmp_path, **options
        )
        found = attack.run(data, WIDE, trainer=trainer, streams=streams(data))
        return found.data.stored(slice(None))

    assert not torch.equal(part(max_steps=5), whole.data.stored(slice(None)))
    assert torch.equal(part(resume=True), whole.data.stored(slice(None)))


def test_the_noise_stands_still_once_the_error_is_reached() -> None:
    data = images(8)
    loss = ErrorMinimisation(EM(stop_error=0.2), Noise(data, torch.arange(8)), WIDE.allowed)
    assert loss.stop(()) is None
    loss.load_state_dict({**loss.state_dict(), "error": torch.tensor(0.1)})
    assert loss.stop(()) == "an error of 10.00% under noise"


def test_values_that_mean_nothing_are_refused() -> None:
    for options in ({"batches": 0}, {"steps": 0}, {"step_size": 0.0}):
        with pytest.raises(BadInput, match="EM takes"):
            EM(**options)
    with pytest.raises(BadInput, match="EM has the stop error"):
        EM(stop_error=1.0)
    with pytest.raises(BadInput, match="EMClassWise has the stop error"):
        EMClassWise(share=0.0)
