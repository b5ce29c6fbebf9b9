"""`robustkit defend rift`: a model that `evaluate` takes, defaults that it remembers, bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustkit.cli import run
from robustkit.training import Trainer
from tests.cli.conftest import Invoke, Result

TRAINING = (
    "train --data digits --model resnet-8 --n 200 --eps 0.1 --epochs 2 --batch-size 32 --seed 5 "
    "--device cpu --set loss.steps=2 --set selection.steps=2"
)
FAST = (
    "--epochs 1 --lr 0.1 --batch-size 32 --device cpu --set held_out=60 --set max_doubt=0.5 "
    "--set samples=32 --set steps=2 --set attack_steps=2 --set alphas=[0.5,1.0]"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model."""
    folder = tmp_path_factory.mktemp("base") / "model"
    assert run([*TRAINING.split(), "--out", str(folder)]) == 0
    return folder


def defend(invoke: Invoke, model: object, out: Path, *more: str) -> Result:
    return invoke(f"defend rift {FAST}", "--model", str(model), "--out", str(out), *more)


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    for word in words:
        assert word in result.err


def weights(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("model-*.safetensors")
    return load_file(file)


def test_it_writes_a_model_that_evaluate_takes(invoke: Invoke, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    result = defend(invoke, base, out, "--set", "max_drop=1", "--set", "max_doubt=1")
    assert result.code == 0, result.err
    report = json.loads((out / "rift.json").read_text())
    assert (out / "rift.png").read_bytes().startswith(b"\x89PNG")
    (module,) = report["modules"]
    old, new = weights(base), weights(out)
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert changed <= {f"{module}.weight"}
    assert bool(changed) is bool(report["alpha"])
    # What was not said comes from the training of the model.
    assert report["threat"]["perturbation"]["radius"] == 0.1
    assert (report["data"]["spec"], report["data"]["n"]) == ("digits", 200)
    assert "least critical first" in result.out
    assert "conv1" in result.out
    assert f"evaluate --model {out} --data digits --threat linf --eps 0.1" in result.out
    about = json.loads((out / "robustkit.json").read_text())["about"]
    assert about["training"]["recipe"]["trainer"]["seed"] == 5
    assert about["defense"]["name"] == "rift"
    assert about["defense"]["modules"] == [module]
    words = f"--model {out} --data digits --n 5 --eps 0.1 --attacks fgsm --device cpu --json"
    assert invoke(f"evaluate {words}").code == 0
    # And it can be defended again.
    assert defend(invoke, out, tmp_path / "again").code == 0


def test_the_report_alone_is_printed_as_json(invoke: Invoke, base: Path, tmp_path: Path) -> None:
    more = ("--json", "--module", "layer2.0.conv1,linear", "--eps", "0.05", "--seed", "1")
    result = defend(invoke, base, tmp_path, *more)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report == json.loads((tmp_path / "rift.json").read_text())
    assert report["modules"] == ["layer2.0.conv1", "linear"]
    assert report["chosen_by"] == "name"
    assert report["threat"]["perturbation"]["radius"] == 0.05
    assert [point["alpha"] for point in report["curve"]] == [0.0, 0.5, 1.0]


def test_the_same_command_gives_the_same_files(invoke: Invoke, base: Path, tmp_path: Path) -> None:
    for name in "ab":
        assert defend(invoke, base, tmp_path / name).code == 0
    for file in ("rift.json", "rift.png", "robustkit.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_for_an_architecture(invoke: Invoke, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(weights(base), file)
    more = ("--weights", str(file), "--data", "digits", "--n", "150", "--eps", "0.1")
    result = defend(invoke, "resnet-8", tmp_path / "out", *more)
    assert result.code == 0, result.err
    words = f"--model {tmp_path / 'out'} --data digits --n 5 --eps 0.1 --attacks fgsm --json"
    assert invoke(f"evaluate {words} --device cpu").code == 0


def test_code_of_the_user_is_named_with_its_weights(
    invoke: Invoke, victim: Path, tmp_path: Path
) -> None:
    more = ("--data", "digits", "--n", "150", "--eps", "0.1")
    result = defend(invoke, f"{victim}:make", tmp_path, *more)
    assert result.code == 0, result.err
    assert f"--model {victim}:make --weights {tmp_path}" in result.out
    words = f"--model {victim}:make --weights {tmp_path} --data digits --n 5 --attacks fgsm"
    assert invoke(f"evaluate {words} --device cpu --json").code == 0


def test_a_run_that_was_stopped_goes_on(
    invoke: Invoke, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert defend(invoke, base, tmp_path / "whole", "--epochs", "2").code == 0
    fit = Trainer.fit

    def stopped(self: Trainer, *given: object, **named: object) -> object:
        result = fit(self, *given, **named)  # type: ignore[arg-type]
        object.__setattr__(result, "stopped_by", "signal")
        return result

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stopped)
        result = defend(invoke, base, out, "--epochs", "2")
    assert result.code == 130
    assert "--resume" in result.err
    assert not (out / "robustkit.json").exists()
    refused(defend(invoke, base, out, "--epochs", "2"), "--resume")
    assert defend(invoke, base, out, "--epochs", "2", "--resume").code == 0
    assert weights(out).keys() == weights(tmp_path / "whole").keys()
    first, second = ((folder / "rift.json").read_text() for folder in (out, tmp_path / "whole"))
    assert first == second


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--module", "conv"), ("'conv'", "Did you mean conv1")),
        (("--module", "layer1"), ("'layer1'", "layer1.0.conv1")),
        (("--split", "test"), ("--split train",)),
        (("--eps", "-1"), ("-1",)),
        (("--threat", "l-inf"), ("Did you mean linf",)),
        (("--data", "digit"), ("Did you mean digits",)),
        (("--set", "held_out"), ("--set key=value",)),
        (("--set", "heldout=3"), ("rift has no heldout", "held_out")),
        (("--set", "steps=many"), ("rift.steps is 'many'", "whole number")),
        (("--set", "max_doubt=0.01"), ("Hold out at least 381",)),
        (("--set", "held_out=200"), ("leaves none",)),
        (("--epochs", "0"), ("epochs is 0",)),
        (("--device", "tpu"), ("tpu",)),
        (("--n", "0"), ("0 images",)),
    ],
)
def test_bad_input(
    more: tuple[str, ...], words: tuple[str, ...], invoke: Invoke, base: Path, tmp_path: Path
) -> None:
    refused(defend(invoke, base, tmp_path / "out", *more), *words)
    assert not (tmp_path / "out" / "robustkit.json").exists()


def test_models_that_cannot_be_defended(invoke: Invoke, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(defend(invoke, "resnet-8", out, "--data", "digits"), "--weights FILE")
    refused(defend(invoke, "builtin:cifar10-resnet18", out), "give --data")
    refused(defend(invoke, tmp_path, out), "robustkit.json")
    refused(defend(invoke, "nothing", out, "--data", "digits"), "'nothing'")
    refused(defend(invoke, base, base), "Give another folder")
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / "robustkit.json").write_text("{")
    refused(defend(invoke, broken, out), "no readable JSON")


def test_what_stands_in_a_description_is_not_trusted(
    invoke: Invoke, base: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(base, odd)
    description = json.loads((odd / "robustkit.json").read_text())
    empty: list[object] = [
        [],
        {"training": 3},
        {"training": {"recipe": [], "data": {"spec": 4, "n": "x"}}},
    ]
    for about in empty:
        (odd / "robustkit.json").write_text(json.dumps({**description, "about": about}))
        refused(defend(invoke, odd, tmp_path / "out"), "give --data")
    strange = {"training": {"recipe": {"surprise": 1}, "data": {"spec": "digits"}}}
    (odd / "robustkit.json").write_text(json.dumps({**description, "about": strange}))
    refused(defend(invoke, odd, tmp_path / "out"), "surprise")


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from robustkit.cli import run; "
        "run(['defend', '--help']); run(['defend', 'rift', '--help']); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_defenses_are_listed_and_shown(invoke: Invoke) -> None:
    assert "rift" in invoke("list defenses").out
    shown = invoke("show rift")
    assert shown.code == 0
    assert "ICCV 2023" in shown.out
    assert "rift.held_out=1024" in shown.out
