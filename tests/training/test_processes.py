"""Training that is killed, told to end, or shared by several processes."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustkit.training.losses import PGDTraining
from tests.training.job import EXTRA, LOSSES, Telling, trainer
from tests.training.tiny import LINF, Normed, Smooth, state, tiny_data

ROOT = Path(__file__).parents[2]


def start(
    folder: Path, *kinds: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.job", str(folder), *kinds],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_at(process: subprocess.Popen[str], step: int, number: int) -> None:
    """Send a signal as soon as the process works on its step so many."""
    assert process.stdout is not None
    for _ in range(step):
        assert process.stdout.readline() == "step\n"
    process.send_signal(number)


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """The weights after a run that nothing interrupted."""
    model = Smooth()
    trainer(None).fit(model, tiny_data(), PGDTraining(threat=LINF, steps=2))
    return state(model)


def resumed(folder: Path) -> dict[str, Tensor]:
    model = Smooth()
    result = trainer(folder / "run", resume=True).fit(
        model, tiny_data(), Telling(PGDTraining(threat=LINF, steps=2))
    )
    assert result.stopped_by == "epochs"
    assert len(result.history) == 4
    return state(model)


@pytest.mark.parametrize("step", [1, 7])
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, whole: dict[str, Tensor], step: int
) -> None:
    process = start(tmp_path, "pgd-telling")
    end_at(process, step, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "pgd-telling-0.safetensors").exists()
    after = resumed(tmp_path)
    assert all(torch.equal(after[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_run_that_is_told_to_end_saves_first(
    tmp_path: Path, whole: dict[str, Tensor], number: int
) -> None:
    process = start(tmp_path, "pgd-telling")
    end_at(process, 5, number)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    # It ended at that step, or at the next where the signal came late.
    assert output.splitlines()[-1] == "signal"
    assert output.count("step\n") <= 1
    content = torch.load(
        max((tmp_path / "run").glob("*.pt"), key=lambda file: file.stat().st_mtime_ns),
        weights_only=True,
    )
    assert content["updates"] in (5, 6)
    after = resumed(tmp_path)
    assert all(torch.equal(after[name], value) for name, value in whole.items())


def test_handlers_of_signals_come_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trainer(tmp_path).fit(Smooth(), tiny_data())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights that two processes ended with, for each loss."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        start(
            folder,
            *LOSSES,
            "trades-normed",
            "pgd-extra",
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
            assert "Warning" not in errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return folder


def weights(folder: Path, kind: str) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{kind}-{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_two_processes_do_what_one_does(together: Path, kind: str) -> None:
    first, second = weights(together, kind)
    alone = Smooth()
    trainer(None).fit(alone, tiny_data(), LOSSES[kind])
    for name, value in state(alone).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def test_two_processes_share_extra_examples_as_one_has_them(together: Path) -> None:
    first, second = weights(together, "pgd-extra")
    alone = Smooth()
    trainer(None).fit(alone, tiny_data(), LOSSES["pgd"], extra=EXTRA)
    for name, value in state(alone).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


def test_two_processes_agree_on_batch_norm_too(together: Path) -> None:
    first, second = weights(together, "trades-normed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh: nn.Module = Normed()
    assert not torch.equal(first["norm.running_mean"], state(fresh)["norm.running_mean"])
