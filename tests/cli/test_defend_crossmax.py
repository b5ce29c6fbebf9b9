"""`robustkit defend crossmax`: an ensemble that `evaluate` takes, and bad input."""

import json
from pathlib import Path

import pytest
import torch

from robustkit import data, models
from robustkit.defenses import CrossMax, Ensemble, Vote
from tests.cli.conftest import Invoke, Result

TRAINING = "train --data digits --model cnn --loss cross-entropy --eps 0.15 --epochs 2 --device cpu"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders with trained members."""
    from robustkit.cli import run

    home = tmp_path_factory.mktemp("members")
    for name in "abc":
        seed = str(ord(name))
        words = [*TRAINING.split(), "--batch-size", "64", "--seed", seed, "--out", str(home / name)]
        assert run(words) == 0
    return [str(home / name) for name in "abc"]


def defend(invoke: Invoke, members: list[str], out: Path, *more: str) -> Result:
    return invoke("defend crossmax", "--members", ",".join(members), "--out", str(out), *more)


def refused(result: Result, *words: str) -> None:
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    for word in words:
        assert word in result.err


def test_it_writes_an_ensemble_with_identical_logits(
    invoke: Invoke, three: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = defend(invoke, three, out, "--rank", "2", "--keep-ties", "--temperatures", "1,2,0.5")
    assert result.code == 0, result.err
    assert f"evaluate --model {out} --data digits --threat linf --eps 0.15" in result.out
    back = models.load(str(out))
    assert isinstance(back, Ensemble)
    assert back.aggregation == CrossMax(rank=2, break_ties=False, temperatures=(1.0, 2.0, 0.5))
    images = data.load("digits", n=50).inputs(torch.arange(50))
    votes = torch.stack([models.load(member)(images) for member in three], dim=1)
    assert torch.equal(back(images), back.aggregation(votes))
    about = json.loads((out / "robustkit.json").read_text())["about"]["defense"]
    assert about == {
        "name": "crossmax",
        "rank": 2,
        "break_ties": False,
        "temperatures": [1.0, 2.0, 0.5],
        "members": three,
    }


def test_evaluate_shows_direct_surrogate_and_worst_with_flags(
    invoke: Invoke, three: list[str], tmp_path: Path
) -> None:
    assert defend(invoke, three, tmp_path).code == 0
    words = f"evaluate --model {tmp_path} --data digits --n 40 --eps 0.15 --device cpu"
    naive = f"{words} --attacks pgd --options pgd.steps=10"
    printed = invoke(naive)
    assert printed.code == 0, printed.err
    for text in ("Under attacks on the model itself", "Under attacks through stand-ins"):
        assert text in printed.out
    assert "not valid" in printed.out
    report = json.loads(invoke(f"{naive} --json").out)
    found = report["accuracies"]
    assert found["worst"]["value"] <= found["surrogate"]["value"] < found["direct"]["value"]
    assert report["robust_accuracy"] == found["worst"]
    void = {flag["id"] for flag in report["flags"] if flag["severity"] == "void"}
    assert {"F2", "F3"} <= void


def test_an_attack_of_another_package_cannot_pass_for_a_verdict(
    invoke: Invoke, three: list[str], tmp_path: Path
) -> None:
    assert defend(invoke, three, tmp_path).code == 0
    words = f"evaluate --model {tmp_path} --data digits --n 30 --eps 0.15 --device cpu --json"
    report = json.loads(invoke(f"{words} --attacks foolbox:LinfPGD").out)
    assert {"F3"} <= {flag["id"] for flag in report["flags"] if flag["severity"] == "void"}


def test_a_control_of_the_same_members(invoke: Invoke, three: list[str], tmp_path: Path) -> None:
    assert defend(invoke, three, tmp_path, "--control", "vote").code == 0
    back = models.load(str(tmp_path))
    assert isinstance(back, Ensemble)
    assert back.aggregation == Vote()
    refused(defend(invoke, three, tmp_path, "--control", "vote", "--rank", "2"), "belong to")


def test_members_that_do_not_belong_together(
    invoke: Invoke, three: list[str], victim: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused(defend(invoke, three[:1], out), "Give at least 2")
    refused(defend(invoke, [three[0], three[0]], out), "named twice")
    refused(defend(invoke, [], out), "Give at least 2")
    refused(defend(invoke, [*three, "resnet-17"], out), "No model is called", "resnet-18")
    refused(defend(invoke, [three[0], "cnn"], out), "'cnn' is an architecture without weights")
    refused(defend(invoke, [three[0], f"{victim}:make"], out), "never runs code")
    refused(defend(invoke, three, Path(three[1])), "--out is the folder of a member")
    refused(defend(invoke, three, out, "--rank", "4"), "give 2 to 3")
    refused(defend(invoke, three, out, "--rank", "1"), "give 2")
    refused(defend(invoke, three, out, "--temperatures", "1,x"), "no list of numbers")
    refused(defend(invoke, three, out, "--temperatures", "1,2"), "2 temperatures for 3 members")
    refused(defend(invoke, three, out, "--temperatures", "1,0,1"), "above 0")
    refused(defend(invoke, three, out, "--size", "0"), "--size")
    refused(
        defend(invoke, [three[0], "builtin:cifar10-resnet18"], out),
        "Member 2 cannot take images of 1 x 8 x 8",
    )
    assert not out.exists()


def test_members_of_other_classes_same_weights_or_no_numbers(
    invoke: Invoke, three: list[str], tmp_path: Path
) -> None:
    fewer = models.load("cnn", classes=5, channels=1)
    models.save(fewer, tmp_path / "fewer", spec="cnn", arguments={"classes": 5, "channels": 1})
    refused(defend(invoke, [three[0], str(tmp_path / "fewer")], tmp_path / "o"), "10, 5 classes")
    same = models.load(three[0])
    arguments = {"classes": 10, "channels": 1}
    models.save(same, tmp_path / "same", spec="cnn", arguments=arguments)
    refused(
        defend(invoke, [three[0], str(tmp_path / "same")], tmp_path / "o"), "have the same weights"
    )
    with torch.no_grad():
        same.get_submodule("linear").get_parameter("bias")[0] = torch.nan
    models.save(same, tmp_path / "spoilt", spec="cnn", arguments=arguments)
    refused(defend(invoke, [three[0], str(tmp_path / "spoilt")], tmp_path / "o"), "answers NaN")


def test_help_and_listing_import_no_torch(invoke: Invoke) -> None:
    assert "--members" in invoke("defend crossmax --help").out
    listed = invoke("list defenses").out
    for name in ("crossmax", "mean-logits", "median-logits", "vote", "multi-resolution"):
        assert name in listed
    assert "rank=None" in invoke("show crossmax").out
