"""Attacks on averages of a random model's answers, several of which may share a batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import APGD, PGD, Stepwise
from robustkit.attacks._eot import EOT
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, Output, grant
from tests.oracles import Network

BALL = LpBall(norm="linf", radius=0.1)
WIDTH, DRAWS = 12, 7


class Noisy(nn.Module):
    """Sees every image through noise, anew for each question; counts batches."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.model = Network(channels=3)
        self.batches: list[int] = []
        self.eval()

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        self.batches.append(len(inputs))
        return Output(self.model(inputs + 0.1 * streams.normal(tuple(inputs.shape[1:]))))


def attacked(
    attack: Stepwise[Any], rows: list[int], *, queries: int | None = None
) -> tuple[Tensor, Meter, Noisy]:
    """Some of twelve images."""
    model = Noisy()
    images = torch.rand(12, 3, 7, 5, generator=torch.Generator().manual_seed(1))[rows]
    objective = Objective(model.model(images).argmax(1))
    streams = Streams.of(seed=0, ids=torch.tensor(rows))
    meter = Meter(model, streams, width=WIDTH, queries=queries)
    view: Any = grant(meter, Access.GRADIENT)
    return attack.run(view, images, objective, BALL, streams=streams), meter, model


@pytest.mark.parametrize("inner", [PGD(steps=3, loss="margin"), APGD(steps=4)], ids=["pgd", "apgd"])
@pytest.mark.parametrize("few", [[0], [3, 8], [9, 1, 6], [11, 2, 4, 0, 5]], ids=len)
def test_answers_that_share_a_batch_are_those_that_do_not(
    inner: Stepwise[Any], few: list[int]
) -> None:
    attack = EOT(attack=inner, average=DRAWS)
    together, everyone, _ = attacked(attack, list(range(12)))
    some, meter, _ = attacked(attack, few)
    assert torch.equal(some, together[few])
    assert torch.equal(meter.ledger.forward, everyone.ledger.forward[few])
    assert torch.equal(meter.ledger.backward, everyone.ledger.backward[few])


def test_few_examples_take_few_batches() -> None:
    attack = EOT(attack=PGD(steps=3), average=DRAWS)
    _, meter, model = attacked(attack, [0, 1, 2])
    # Four answers to each of three examples, then the three that are missing, three times.
    assert model.batches == [WIDTH] * 2 * 3
    assert meter.ledger.forward.tolist() == [3 * DRAWS] * 3
    assert meter.ledger.backward.tolist() == [3 * DRAWS] * 3
    assert meter.ledger.rows_run == WIDTH * 2 * 3


def test_every_draw_is_paid_for() -> None:
    attack = EOT(attack=PGD(steps=9), average=DRAWS)
    _, meter, _ = attacked(attack, [0, 1], queries=3 * DRAWS + 2)
    assert meter.ledger.forward.tolist() == [3 * DRAWS] * 2
