"""AR: its noise obeys the recurrence of its class, and of no other."""

import pytest
import torch
from torch.nn import functional as F

from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.threat_models import LpBall
from robustkit.unlearnable import AR
from robustkit.unlearnable.ar import fields, filters
from tests.unlearnable.small import quick, streams, threat

SHAPE = (2, 14, 17)
CLASSES = 5


def grey(n: int = 60) -> LabelledImages:
    pixels = torch.full((n, *SHAPE), 128, dtype=torch.uint8)
    return LabelledImages.from_tensors(pixels, torch.arange(n) % CLASSES)


def answers(change: torch.Tensor, processes: torch.Tensor) -> torch.Tensor:
    """(N, K): what the filter of each class makes of changes of length one."""
    length = change.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    return F.conv2d(change / length, filters(processes)).abs().flatten(2).mean(2)


def test_noise_obeys_the_recurrence_of_its_class_alone() -> None:
    data = grey()
    processes = AR(candidates=64).processes(data, streams(data))
    noise = fields(processes[data.labels], streams(data), SHAPE)
    found = answers(noise, processes)
    own = found.gather(1, data.labels[:, None])
    others = found.scatter(1, data.labels[:, None], torch.inf)
    assert float(own.max()) < 1e-5
    assert float(others.min()) > 1e-3


def test_fields_are_those_of_a_loop_over_pixels() -> None:
    data = grey(3)
    coefficients = AR(candidates=16).processes(data, streams(data))[data.labels]
    own = streams(data)
    slow = own.normal((2, 18, 21)).double()
    for row in range(2, 18):
        for column in range(2, 21):
            window = slow[:, :, row - 2 : row + 1, column - 2 : column + 1].flatten(2)[:, :, :8]
            slow[:, :, row, column] = (window * coefficients).sum(2)
    assert torch.allclose(fields(coefficients, own, SHAPE).double(), slow[:, :, 4:, 4:], atol=1e-4)


def test_processes_add_up_to_one_and_do_not_grow() -> None:
    data = grey(3)
    processes = AR(candidates=64).processes(data, streams(data))
    assert processes.shape == (data.classes, 2, 8)
    assert torch.allclose(processes.sum(2), torch.ones(()), atol=1e-4)
    many = grey(500)
    noise = fields(processes[many.labels % data.classes], streams(many), SHAPE)
    assert float(noise.abs().max()) < 100


@pytest.mark.parametrize(("norm", "radius"), [("l2", 0.6), ("linf", 8 / 255)])
def test_published_bytes_still_tell_the_class(norm: str, radius: float) -> None:
    data = grey()
    attack, own = AR(candidates=64), streams(data)
    adversary = threat(norm, perturbation=LpBall(norm=norm, radius=radius))  # type: ignore[arg-type]
    found = attack.run(data, adversary, trainer=quick(), streams=own)
    change = found.data.inputs(slice(None)) - 128 / 255
    told = answers(change, attack.processes(data, own)).argmin(1)
    assert float((told == data.labels).float().mean()) > 0.9


def test_no_candidates_are_refused() -> None:
    with pytest.raises(BadInput, match="candidates"):
        AR(candidates=0)
