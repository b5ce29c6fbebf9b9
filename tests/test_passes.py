"""Chunks of one width, ledgers, and what happens when memory runs out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustkit.errors import DeviceLost
from robustkit.passes import Ledger, Passes, chunks, padded, watched, widest


@given(n=st.integers(1, 20), width=st.none() | st.integers(1, 25))
@settings(max_examples=60)
def test_chunks_hold_every_row_once_in_order(n: int, width: int | None) -> None:
    inputs = torch.arange(n * 2.0).reshape(n, 2)
    parts = list(chunks(inputs, width))
    assert [len(chunk) for chunk, _ in parts] == [width or n] * len(parts)
    assert len(parts) == -(-n // (width or n))
    real = torch.cat([chunk[: rows.stop - rows.start] for chunk, rows in parts])
    assert torch.equal(real, inputs)
    assert [row for _, rows in parts for row in range(rows.start, rows.stop)] == list(range(n))


def test_padding_repeats_the_last_row_without_its_gradient() -> None:
    rows = torch.tensor([[1.0], [2.0]], requires_grad=True)
    wide = padded(rows, 5)
    assert wide.flatten().tolist() == [1.0, 2.0, 2.0, 2.0, 2.0]
    (gradient,) = torch.autograd.grad(wide.sum(), rows)
    assert gradient.flatten().tolist() == [1.0, 1.0]
    assert padded(rows, 2) is rows
    assert padded(rows, 1) is rows


def test_a_watch_tells_of_every_gradient_and_of_nothing_else() -> None:
    told: list[int] = []
    inputs = torch.rand(3, 2, requires_grad=True)
    same = watched(inputs, lambda: told.append(1))
    assert torch.equal(same, inputs)
    (gradient,) = torch.autograd.grad((same * 2).sum(), inputs)
    assert told == [1]
    assert torch.equal(gradient, torch.full_like(inputs, 2.0))
    with torch.no_grad():
        watched(inputs, lambda: told.append(2))
    still = torch.rand(3, 2)
    assert watched(still, lambda: told.append(3)) is still
    assert told == [1]


def test_a_ledger_charges_single_examples_and_ignores_padding(device: torch.device) -> None:
    ledger = Ledger(4, device)
    ledger.charge_forward(torch.tensor([0, 2, 2, -1, -1], device=device))
    ledger.charge_backward(torch.tensor([-1, 3], device=device))
    assert ledger.forward.tolist() == [1, 0, 2, 0]
    assert ledger.backward.tolist() == [0, 0, 0, 1]
    assert ledger.passes == Passes(3, 1, 0)
    assert ledger.attributed
    assert ledger.forward.device.type == device.type


def test_a_ledger_remembers_what_nobody_can_be_charged_for() -> None:
    ledger = Ledger(2)
    ledger.charge_forward(5)
    ledger.charge_backward(3)
    ledger.rows_run += 8
    assert ledger.passes == Passes(5, 3, 8)
    assert ledger.forward.tolist() == [0, 0]
    assert not ledger.attributed


def test_bills_add_up() -> None:
    assert Passes(1, 2, 3) + Passes(10, 20, 30) == Passes(11, 22, 33)
    assert Passes() + Passes() == Passes(0, 0, 0)


def test_the_width_is_halved_until_it_fits() -> None:
    tried: list[int] = []

    def run(width: int) -> None:
        tried.append(width)
        if width > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert widest(run, 100) == 12
    assert tried == [100, 50, 25, 12]


def test_one_row_that_does_not_fit_is_told() -> None:
    def run(width: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceLost, match="--device cpu"):
        widest(run, 4)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def run(width: int) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        widest(run, 4)  # type: ignore[arg-type]
