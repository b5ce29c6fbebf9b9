"""Looking at a network while it learns."""

import torch
from torch import nn

from robustkit.data import LabelledImages
from robustkit.models import CNN
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import SGD, Runtime, Trainer
from robustkit.training.losses import PGDTraining
from robustkit.unlearnable.examining import Bill, Examiner, Silent, right
from tests.training.tiny import Smooth, differences, state, tiny_data


class Fixed(nn.Module):
    """Answers class 1, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(inputs), 3)


def test_right_answers_are_told_image_by_image() -> None:
    data = tiny_data(300)
    network = Fixed().train()
    found = right(network, data)
    assert found.tolist() == (data.labels == 1).tolist()
    assert network.training
    assert network.bias.requires_grad


def test_looking_leaves_no_trace() -> None:
    network = CNN(classes=3, channels=1, width=4).train()
    before = state(network)
    right(network, tiny_data())
    assert not list(differences(before, state(network)))
    assert all(module.training for module in network.modules())


def test_the_best_epoch_is_kept_and_the_earliest_of_equal_ones() -> None:
    network = Fixed()
    data = tiny_data(9)
    examiner = Examiner(network, data.take(data.labels == 1), name="x", progress=Silent())
    for epoch, answer in ((1, 0), (2, 1), (3, 1), (4, 2)):
        network.bias.data = torch.eye(3)[answer]
        examiner.epoch({"epoch": epoch})
    assert examiner.best is not None
    assert (examiner.best.epoch, examiner.best.score) == (2, 1.0)
    examiner.best.load_into(network)
    assert network.bias.argmax() == 1


def test_every_pass_is_counted() -> None:
    network = Smooth()
    data = tiny_data(48)
    threat = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
    trainer = Trainer(epochs=2, batch_size=16, optimizer=SGD(lr=0.1), runtime=Runtime(device="cpu"))
    bill = Bill()
    with bill.counting(network):
        trainer.fit(network, data, PGDTraining(threat=threat, steps=3))
        right(network, data)
    # Three steps of the attack and one of the training, twice over the data; then once to look.
    assert (bill.forward, bill.backward) == (48 * 2 * 4 + 48, 48 * 2 * 4)
    network(data.inputs([0]))
    assert bill.forward == 48 * 9


def test_progress_is_passed_on() -> None:
    told: list[tuple[object, ...]] = []

    class Told:
        def stage(self, name: str, total: int, done: int) -> None:
            told.append((name, total, done))

        def advance(self, done: int, broken: int) -> None:
            told.append((done, broken))

    data: LabelledImages = tiny_data(32)
    network = Smooth()
    examiner = Examiner(network, data, name="1/2 erm", progress=Told())
    Trainer(
        epochs=2,
        batch_size=16,
        optimizer=SGD(lr=0.1),
        runtime=Runtime(device="cpu"),
        progress=examiner,
    ).fit(network, data)
    assert told == [("1/2 erm", 4, 0), *[(1, 0)] * 4]
