"""`robustkit defend lq-vae`, `contextual-fusion` and `multi-resolution`: models that `evaluate`
takes back as themselves, and bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robustkit import data, models
from robustkit.defenses import (
    CrossMax,
    Filtered,
    Fused,
    MultiResolutionStack,
    SelfEnsemble,
    Vote,
)
from robustkit.evaluation import adaptive, draws, flags_sample
from robustkit.training import Trainer
from tests.cli.conftest import Invoke, Result
from tests.cli.test_defend_crossmax import TRAINING, refused

# Runs a command on models, given one by one or not at all.
Command = Callable[..., Result]
QUICK = "--n 200 --epochs 2 --batch-size 32 --device cpu"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders with trained models."""
    from robustkit.cli import run

    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        words = [*TRAINING.split(), "--batch-size", "64", "--seed", str(seed)]
        assert run([*words, "--out", str(home / name)]) == 0
    return [str(home / name) for name in "ab"]


def filtered(invoke: Invoke, model: str, out: Path, *more: str) -> Result:
    words = f"defend lq-vae {QUICK} --set width=4 --set codes=8"
    return invoke(words, "--model", model, "--out", str(out), *more)


def fused(invoke: Invoke, members: list[str], out: Path, *more: str) -> Result:
    words = ("--members", ",".join(members), "--out", str(out), *more)
    return invoke(f"defend contextual-fusion {QUICK}", *words)


def many(invoke: Invoke, model: str, out: Path, *more: str) -> Result:
    words = f"defend multi-resolution {QUICK} --set stack.jitter=1"
    return invoke(words, "--model", model, "--out", str(out), *more)


def evaluated(invoke: Invoke, out: Path, n: int = 20) -> dict[str, object]:
    words = f"--data digits --n {n} --batch-size {n} --eps 0.15 --attacks pgd --device cpu --json"
    result = invoke(f"evaluate {words} --options pgd.steps=3 --model", str(out))
    assert result.code == 0, result.err
    report: dict[str, object] = json.loads(result.out)
    return report


def about(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "robustkit.json").read_text())["about"]["defense"]
    return found


def three_accuracies(invoke: Invoke, out: Path, n: int = 20) -> dict[str, object]:
    """The report of a quick evaluation, which must show all three accuracies."""
    report = evaluated(invoke, out, n)
    found = report["accuracies"]
    assert isinstance(found, dict)
    assert all(found[name] is not None for name in ("direct", "surrogate", "worst"))
    assert found["worst"]["value"] <= min(found[name]["value"] for name in ("direct", "surrogate"))
    assert report["robust_accuracy"] == found["worst"]
    return report


def flags(report: dict[str, object]) -> set[str]:
    found = report["flags"]
    assert isinstance(found, list)
    return {flag["id"] for flag in found}


def test_a_filter_that_evaluate_takes(invoke: Invoke, two: list[str], tmp_path: Path) -> None:
    result = filtered(invoke, two[0], tmp_path, "--set", "sampled=false")
    assert result.code == 0, result.err
    assert f"evaluate --model {tmp_path} --data digits --threat linf --eps 0.15" in result.out
    back = models.load(str(tmp_path))
    assert isinstance(back, Filtered)
    images = data.load("digits", n=30).inputs(torch.arange(30))
    classifier = models.load(two[0])
    assert torch.equal(back(images), classifier(back.filtering(images)))
    said = about(tmp_path)
    assert (said["name"], said["model"], said["width"]) == ("lq-vae", two[0], 4)
    assert said["bound"] == back.filtering.bound()
    assert "F3" in flags(three_accuracies(invoke, tmp_path))


def test_a_fusion_that_evaluate_takes(invoke: Invoke, two: list[str], tmp_path: Path) -> None:
    result = fused(invoke, two, tmp_path, "--set", "penalties=[0.0, 0.01]")
    assert result.code == 0, result.err
    back = models.load(str(tmp_path))
    assert isinstance(back, Fused)
    images = data.load("digits", n=30)
    right = back(images.inputs(torch.arange(30))).argmax(1) == images.labels
    assert float(right.float().mean()) > 0.5
    said = about(tmp_path)
    assert (said["penalties"], said["members"]) == ([0.0, 0.01], two)
    assert not {"F2", "F3"} & flags(three_accuracies(invoke, tmp_path))


def test_a_self_ensemble_that_evaluate_takes(
    invoke: Invoke, two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = many(invoke, two[0], tmp_path, "--rank", "2", "--light", "--layers", "pool")
    assert result.code == 0, result.err
    assert "crossmax of 1 heads and their network" in result.out
    back = models.load(str(tmp_path))
    assert isinstance(back, SelfEnsemble)
    assert back.aggregation == CrossMax(rank=2)
    assert back.layers == ("pool",)
    assert back.trunk.stack == MultiResolutionStack(resolutions=(8, 4, 2, 1), jitter=1)
    assert about(tmp_path)["layers"] == ["pool"]
    for module, name, value in (
        (adaptive, "RUNGS", (2,)),
        (draws, "RUNGS", (2,)),
        (draws, "DRAWS", 4),
        (flags_sample, "DRAWS", 4),
    ):
        monkeypatch.setattr(module, name, value)
    report = three_accuracies(invoke, tmp_path, n=5)
    assert "F1" in flags(report)
    assert isinstance(report["draws"], dict)
    assert (tmp_path / "backbone").is_dir()


def test_a_control_of_the_self_ensemble(invoke: Invoke, two: list[str], tmp_path: Path) -> None:
    more = ("--control", "vote", "--resolutions", "8,4", "--epochs", "1", "--set", "pooled=false")
    assert many(invoke, two[0], tmp_path, *more).code == 0
    back = models.load(str(tmp_path))
    assert isinstance(back, SelfEnsemble)
    assert back.aggregation == Vote()
    assert back.trunk.stack.resolutions == (8, 4)
    assert not back.pooled


def test_a_run_that_was_stopped_goes_on(
    invoke: Invoke, two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Trainer.fit

    def stopped(self: Trainer, *given: object, **named: object) -> object:
        result = fit(self, *given, **named)  # type: ignore[arg-type]
        object.__setattr__(result, "stopped_by", "signal")
        return result

    runs: dict[str, Command] = {
        "lq-vae": lambda *more: filtered(invoke, two[0], tmp_path / "lq-vae", *more),
        "fusion": lambda *more: fused(invoke, two, tmp_path / "fusion", *more),
        "many": lambda *more: many(invoke, two[0], tmp_path / "many", *more),
    }
    for name, command in runs.items():
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "fit", stopped)
            result = command()
        assert result.code == 130
        assert "--resume" in result.err
        assert not (tmp_path / name / "robustkit.json").exists()
        refused(command(), "--resume")
        assert command("--resume").code == 0
        assert (tmp_path / name / "robustkit.json").exists()


def test_bad_input(invoke: Invoke, two: list[str], victim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    commands: list[Command] = [
        lambda model, more=(): filtered(invoke, model, out, *more),
        lambda model, more=(): fused(invoke, [model, two[1]], out, *more),
        lambda model, more=(): many(invoke, model, out, *more),
    ]
    for command in commands:
        refused(command("cnn"), "'cnn' is an architecture without weights")
        refused(command("nothing"), "'nothing'")
        refused(command(f"{victim}:make"), "never runs code")
        refused(command(two[0], more=("--split", "test")), "--split train")
        refused(command(two[0], more=("--set", "widht=3")), "has no widht")
        refused(command(two[0], more=("--set", "width")), "--set key=value")
        refused(command(two[0], more=("--out", two[0])), "Give another folder")
        refused(command(two[0], more=("--epochs", "0")), "epochs is 0")
        refused(command(two[0], more=("--data", "digit")), "Did you mean digits")
        refused(command(two[0], more=("--data", "samples:cifar10", "--split", "test")), "train")
    refused(fused(invoke, two[:1], out), "two members", "1 were given")
    refused(fused(invoke, [*two, two[0]], out), "named twice")
    refused(fused(invoke, two, out, "--set", "penalties=[1]"), "two numbers")
    refused(filtered(invoke, two[0], out, "--set", "codes=0"), "at least 1")
    refused(many(invoke, two[0], out, "--resolutions", "9"), "images are 8 px high")
    refused(many(invoke, two[0], out, "--resolutions", "8,x"), "no list of numbers")
    refused(many(invoke, two[0], out, "--layers", "nowhere"), "no layer 'nowhere'")
    refused(many(invoke, two[0], out, "--control", "vote", "--rank", "2"), "belong to")
    refused(many(invoke, two[0], out, "--set", "stack.noise=loud"), "stack.noise")
    refused(many(invoke, two[0], out, "--rank", "9"), "give 2 to")
    assert not (out / "robustkit.json").exists()


def test_members_of_other_images_or_without_numbers(
    invoke: Invoke, two: list[str], tmp_path: Path
) -> None:
    out, arguments = tmp_path / "out", {"classes": 10, "channels": 3}
    colour = str(tmp_path / "colour")
    models.save(models.load("cnn", channels=3), Path(colour), spec="cnn", arguments=arguments)
    refused(filtered(invoke, colour, out, "--data", "digits"), "cannot take images of 1 x 8 x 8")
    refused(fused(invoke, [two[0], colour], out, "--data", "digits"), "Member 2 cannot take")
    refused(many(invoke, colour, out, "--data", "digits"), "cannot take")
    spoilt = models.load(two[1])
    with torch.no_grad():
        spoilt.get_submodule("linear").get_parameter("bias")[0] = torch.nan
    bad = str(tmp_path / "spoilt")
    models.save(spoilt, Path(bad), spec="cnn", arguments={"classes": 10, "channels": 1})
    refused(filtered(invoke, bad, out, "--data", "digits"), "answers NaN")
    refused(fused(invoke, [two[0], bad], out, "--data", "digits"), "answers NaN")
    refused(many(invoke, bad, out, "--data", "digits"), "NaN")
    fewer = str(tmp_path / "fewer")
    few = {"classes": 5, "channels": 1}
    models.save(models.load("cnn", classes=5, channels=1), Path(fewer), spec="cnn", arguments=few)
    refused(filtered(invoke, fewer, out, "--data", "digits"), "answers 5 classes")
    refused(many(invoke, fewer, out, "--data", "digits"), "answers 5 classes")
    same = str(tmp_path / "same")
    models.save(
        models.load(two[0]), Path(same), spec="cnn", arguments={"classes": 10, "channels": 1}
    )
    refused(fused(invoke, [two[0], same], out, "--data", "digits"), "have the same weights")


def test_help_and_listing_import_no_torch(invoke: Invoke) -> None:
    code = (
        "import sys; from robustkit.cli import run; "
        "[run(['defend', name, '--help']) for name in "
        "('lq-vae', 'contextual-fusion', 'multi-resolution')]; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    listed = invoke("list defenses").out
    for name in ("lq-vae", "contextual-fusion", "multi-resolution"):
        assert name in listed
    assert "lipschitz=4.0" in invoke("show lq-vae").out
    assert "penalties=" in invoke("show contextual-fusion").out
