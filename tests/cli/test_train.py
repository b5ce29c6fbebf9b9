"""`robustkit train`: a model that `evaluate` takes, runs that go on, and bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustkit.training import Batch
from robustkit.training.losses import PGDTraining
from tests.cli.conftest import Invoke, Result

FAST = (
    "--data digits --model resnet-8 --n 200 --eps 0.1 --epochs 2 --batch-size 32 --device cpu "
    "--set loss.steps=2 --set selection.steps=2"
)


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    for word in words:
        assert word in result.err


def train(invoke: Invoke, words: str, out: Path, *more: str) -> Result:
    return invoke(f"train {words}", "--out", str(out), *more)


def weights(folder: Path) -> Path:
    (file,) = folder.glob("model-*.safetensors")
    return file


def test_it_writes_a_model_that_evaluate_takes(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = train(invoke, FAST, out)
    assert result.code == 0, result.err
    assert "held out robust accuracy: " in result.out
    assert result.err.count("epoch ") == 2
    assert f"evaluate --model {out} --data digits --threat linf --eps 0.1" in result.out
    about = json.loads((out / "robustkit.json").read_text())["about"]
    assert about["threat"]["perturbation"]["radius"] == 0.1
    assert about["threat"]["access"] == "gradient"
    # From the recipe digits-pgd, which has the same data, model and loss.
    assert "taken from the recipe 'digits-pgd'" in result.err
    assert about["training"]["recipe"]["loss"] == {"name": "pgd", "steps": 2, "step_size": 0.5}
    assert len((out / "history.jsonl").read_text().splitlines()) == 2
    words = f"--model {out} --data digits --n 5 --eps 0.1 --attacks fgsm --device cpu --json"
    report = invoke(f"evaluate {words}")
    assert report.code == 0, report.err
    assert json.loads(report.out)["data"]["n"] == 5


def test_a_recipe_can_be_changed(invoke: Invoke, tmp_path: Path) -> None:
    words = (
        "--recipe digits-pgd --loss trades --n 100 --epochs 1 --batch-size 32 --device cpu "
        "--awp 0.005 --seed 3 --lr 0.01 --set loss.steps=1 --set selection.n=10 "
        "--set schedule.name=step --set schedule.milestones=[1] --set averaging.decay=0.9"
    )
    result = train(invoke, words, tmp_path)
    assert result.code == 0, result.err
    recipe = json.loads((tmp_path / "robustkit.json").read_text())["about"]["training"]["recipe"]
    assert recipe["loss"] == {"name": "trades", "steps": 1}
    assert recipe["awp"] == {"gamma": 0.005}
    assert recipe["schedule"] == {"name": "step", "milestones": [1]}
    assert recipe["optimizer"] == {"name": "sgd", "lr": 0.01}
    assert recipe["trainer"] == {"epochs": 1, "batch_size": 32, "seed": 3}


def test_a_trained_model_can_teach_and_be_trained_further(invoke: Invoke, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert train(invoke, FAST, first).code == 0
    words = "--data digits --n 100 --epochs 1 --batch-size 32 --device cpu --set selection.steps=1"
    for name, more in (
        ("student", ("--model", "cnn", "--loss", "distillation", "--teacher", str(first))),
        ("further", ("--model", str(first), "--loss", "cross-entropy")),
    ):
        result = train(invoke, words, tmp_path / name, *more)
        assert result.code == 0, result.err
    entry = json.loads((tmp_path / "further" / "robustkit.json").read_text())["entry"]
    assert entry == "resnet-8"
    before, after = load_file(weights(first)), load_file(weights(tmp_path / "further"))
    assert before.keys() == after.keys()


def test_the_same_words_give_the_same_weights_and_resume_changes_nothing(
    invoke: Invoke, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        assert train(invoke, FAST, tmp_path / name).code == 0
    assert weights(tmp_path / "a").name == weights(tmp_path / "b").name
    refused(train(invoke, FAST, tmp_path / "a"), "already holds a run. Add --resume")
    refused(
        train(invoke, f"{FAST} --lr 0.01", tmp_path / "a", "--resume"),
        "belongs to another run",
        "optimizer",
    )
    assert train(invoke, FAST, tmp_path / "a", "--resume").code == 0
    assert weights(tmp_path / "a").name == weights(tmp_path / "b").name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data digit", ("digits",)),
        ("", ("no data to learn from",)),
        ("--data digits --model resnet-9", ("resnet-8",)),
        ("--data digits --loss trade", ("No loss is called 'trade'", "trades")),
        ("--data digits --threat linff", ("linf",)),
        ("--data digits --eps 8/0", ("divides by zero",)),
        ("--data digits --eps -1", ("not allowed",)),
        ("--data digits --epochs 0", ("at least 1",)),
        ("--data digits --lr 0", ("learning rate",)),
        ("--data digits --lr nan", ("the learning rate (--lr) is nan",)),
        ("--data digits --batch-size 9999 --set trainer.accumulate=7", ("multiple of 7",)),
        ("--data digits --set beta", ("--set section.key=value",)),
        ("--data digits --set loss.beta=1", ("loss pgd has no beta",)),
        ("--data digits --set lose.beta=1", ("unknown lose",)),
        ("--data digits --loss distillation", ("teacher",)),
        ("--data digits --loss distillation --teacher cnn", ("without weights",)),
        ("--data digits --device cuda:77", ("cuda:77",)),
        ("--recipe digits", ("digits-pgd",)),
        ("--recipe none.toml", ("no recipe at",)),
        ("--data fashion-mnist --data-root nowhere --split train", ()),
        ("--data nothing.npz", ("nothing.npz",)),
    ],
)
def test_bad_words_are_told(
    invoke: Invoke,
    tmp_path: Path,
    words: str,
    said: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("robustkit.data.places.SYSTEM", tmp_path / "no-system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused(train(invoke, words, tmp_path / "out"), *said)
    assert not list(tmp_path.glob("out/model-*"))


def test_a_recipe_need_not_say_everything(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text('data = "digits"\n[trainer]\nmax_steps = 1\n[runtime]\ndevice = "cuda:77"\n')
    words = f"--recipe {file} --n 60 --set loss.steps=1"
    refused(train(invoke, words, tmp_path / "out"), "cuda:77")
    assert train(invoke, f"{words} --device cpu", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "robustkit.json").read_text())["entry"] == "cnn"
    for setting, said in (
        ("runtime.compile=nothing", "no compiler backend called 'nothing'"),
        ("trainer.seed=x", "trainer.seed is 'x'"),
        ("threat.eps=inf", "finite"),
    ):
        result = train(invoke, f"{words} --device cpu --set {setting}", tmp_path / "refused")
        refused(result, said)


def test_images_of_another_number_of_classes(invoke: Invoke, tmp_path: Path) -> None:
    """A model of ten classes is not trained on data of twelve."""
    assert train(invoke, FAST, tmp_path / "ten").code == 0
    file = tmp_path / "twelve.npz"
    images = np.random.default_rng(0).random((24, 1, 8, 8), dtype=np.float32)
    np.savez(file, inputs=images, labels=np.arange(24) % 12)
    words = f"--data {file} --model {tmp_path / 'ten'} --batch-size 8 --device cpu"
    refused(
        train(invoke, words, tmp_path / "out"),
        "label 11, but the model answers 10 classes",
    )


def test_extra_examples_from_a_file(invoke: Invoke, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    file, other, larger = (tmp_path / f"{name}.npz" for name in ("extra", "other", "larger"))
    images = generator.random((30, 1, 8, 8), dtype=np.float32)
    np.savez(file, inputs=images, labels=np.arange(30) % 10)
    np.savez(other, inputs=images, labels=np.arange(30) % 12)
    np.savez(larger, inputs=images.repeat(2, axis=2), labels=np.arange(30) % 10)
    out = tmp_path / "out"
    short = f"{FAST} --set trainer.max_steps=2"
    assert train(invoke, f"{short} --extra {file} --extra-share 0.25", out).code == 0
    training = json.loads((out / "robustkit.json").read_text())["about"]["training"]
    assert training["recipe"]["extra"] == {"data": str(file), "share": 0.25}
    assert training["extra"]["n"] == 30
    assert training["extra"]["share"] == 0.25
    assert len(training["extra"]["sha256"]) == 64
    plain = tmp_path / "plain"
    assert train(invoke, short, plain).code == 0
    assert weights(plain).name != weights(out).name
    for words, said in (
        (f"--extra {other}", "12 classes"),
        ("--extra gone.npz", "gone.npz"),
        (f"--extra {file} --extra-share 2", "at most 1"),
        ("--extra-share 0.5", "give a file"),
        (f"--extra {larger}", "Both must have the same"),
    ):
        refused(train(invoke, f"{short} {words}", tmp_path / "refused"), said)


def test_a_loss_that_explodes_at_once_is_told(invoke: Invoke, tmp_path: Path) -> None:
    words = f"{FAST} --lr 1e30 --set schedule.name=constant"
    refused(train(invoke, words, tmp_path / "at-once"), "NaN or infinite", "epoch 1")
    assert not list(tmp_path.glob("at-once/model-*"))


def test_a_loss_that_explodes_later_leaves_the_best_weights(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PGDTraining.on

    def on(self: PGDTraining, model: nn.Module, batch: Batch, changed: Tensor) -> Tensor:
        value = real(self, model, batch, changed)
        return value * torch.nan if batch.epoch else value

    monkeypatch.setattr(PGDTraining, "on", on)
    out = tmp_path / "out"
    refused(train(invoke, FAST, out), "after epoch 1", "best weights until then")
    assert weights(out).exists()
    report = invoke(f"evaluate --model {out} --data digits --n 4 --attacks fgsm --device cpu")
    assert report.code == 0, report.err


def test_a_full_disk_can_be_gone_on_from(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert train(invoke, FAST, whole).code == 0
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("robustkit.files.os.fsync", fsync)
        result = train(invoke, FAST, out)
    assert result.code == 4
    assert "No space left on device" in result.err
    assert "Traceback" not in result.err
    assert train(invoke, FAST, out, "--resume").code == 0
    assert weights(whole).name == weights(out).name


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [*FAST.split(), "--epochs", "40", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "robustkit", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Threads of a small network wait for one another on a busy machine.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert any(line.startswith("epoch 1/40") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Go on with:" in errors
    assert f"--out {out} --resume" in errors
    assert "Traceback" not in errors
    assert list(out.glob("checkpoint-*.pt"))
    assert not list(out.glob("model-*"))


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from robustkit.cli import run; run(['train', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_recipes_and_losses_are_listed(invoke: Invoke) -> None:
    assert "cifar10-wrn-34-10-trades-awp" in invoke("list recipes").out
    assert "early-learning" in invoke("list losses").out
    shown = invoke("show digits-pgd")
    assert shown.code == 0
    assert "Madry" in shown.out
