"""What the commands print, where, and with which exit code."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import torch

from robustkit import models, registry, threat_models
from robustkit.cli import commands
from robustkit.registry import Entry
from robustkit.report import schema
from tests.cli.conftest import Invoke
from tests.evaluation.cheats import Cheat

ESCAPE = "\x1b"
Python = Callable[..., subprocess.CompletedProcess[str]]

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None
from robustkit.cli import main
main(sys.argv[1:])
"""


def command(
    *words: str, folder: Path | None = None, code: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    start = ["-m", "robustkit"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_main_job_is_the_default(invoke: Invoke) -> None:
    result = invoke("evaluate --threat linf --json")
    assert result.code == 0
    report = json.loads(result.out)
    jsonschema.validate(report, schema())
    assert report["command"] == "robustkit evaluate --threat linf --json"
    assert report["model"]["spec"] == "builtin:cifar10-resnet18"
    assert report["data"]["spec"] == "samples:cifar10"
    assert report["clean_accuracy"]["value"] == 1
    assert report["robust_accuracy"]["value"] == 0
    assert (report["data"]["n"], report["violations"]) == (20, 0)
    assert [flag["id"] for flag in report["flags"]] == ["F11"]
    assert {example["status"] for example in report["examples"]} == {"broken"}
    assert "fgsm: 20 of 20" in result.err


def test_json_is_all_that_is_printed_and_can_be_read(digits: str, invoke: Invoke) -> None:
    result = invoke(f"{digits} --n 8 --json")
    assert result.code == 0
    report = json.loads(result.out)
    jsonschema.validate(report, schema())
    assert result.out.startswith("{\n")
    assert "8 of 8" in result.err
    assert ESCAPE not in result.out + result.err


LOUD = """
import sys

from robustkit.models.cnn import CNN

print("imported")


class Loud(CNN):
    def forward(self, inputs):
        print("asked")
        return super().forward(inputs)


class Leaving(CNN):
    def forward(self, inputs):
        sys.exit(3)


def make():
    print("made")
    return Loud(classes=10, channels=1, width=8)


def leave():
    return Leaving(classes=10, channels=1, width=8)
"""


def test_what_a_model_prints_is_no_part_of_the_report(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    words = f"evaluate --model {tmp_path}/loud.py:make --data digits --n 4 --attacks fgsm --json"
    result = invoke(words)
    assert result.code == 0, result.err
    jsonschema.validate(json.loads(result.out), schema())
    assert {"imported", "made", "asked"} <= set(result.err.splitlines())


def test_a_model_that_ends_the_program_is_bad_input(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    result = invoke(f"evaluate --model {tmp_path}/loud.py:leave --data digits --n 4")
    assert (result.code, result.out) == (2, "")
    assert "Error: The model's code tried to end the program (SystemExit: 3)" in result.err


def test_the_table_is_on_stdout_and_progress_on_stderr(
    digits: str, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke(f"{digits} --n 40 --attacks fgsm,pgd --out {tmp_path}")
    assert result.code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert 0.3 <= report["robust_accuracy"]["value"] <= 0.7
    assert f"{100 * report['robust_accuracy']['value']:.1f}" in result.out
    assert "fgsm" in result.out
    assert "clean: 40 of 40" in result.err
    assert str(tmp_path / "report.html") in result.err
    assert ESCAPE not in result.out + result.err
    assert "of 40" not in result.out
    assert {path.name for path in tmp_path.iterdir()} >= {
        "report.json",
        "report.html",
        "examples.safetensors",
    }


@pytest.mark.parametrize(
    "options",
    [
        "--threat l2 --eps 0.8",
        "--threat l1 --eps 1.5",
        "--eps 1/4 --goal targeted --attacks pgd",
        "--eps 1/4 --goal targeted:least-likely --attacks fgsm,pgd",
        "--eps 0.2 --access score --queries 40 --attacks foolbox:SpatialAttack",
    ],
)
def test_other_threats_are_evaluated(options: str, victim: Path, invoke: Invoke) -> None:
    result = invoke(f"evaluate --model {victim}:make --data digits --n 20 --json {options}")
    if "Spatial" in options:
        # It turns images instead of changing them a little: no norm's attack.
        assert result.code == 2
        return
    assert result.code == 0, result.err
    report = json.loads(result.out)
    jsonschema.validate(report, schema())
    assert report["violations"] == 0
    assert 0 < report["robust_accuracy"]["value"] <= report["clean_accuracy"]["value"]


def test_labels_alone_under_a_budget(victim: Path, invoke: Invoke) -> None:
    result = invoke(
        f"evaluate --model {victim}:make --data digits --n 5 --threat l2 --eps 1.5 --json "
        "--access decision --attacks foolbox:HopSkipJumpAttack --queries 300"
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    jsonschema.validate(report, schema())
    assert report["threat"]["access"] == "decision"
    assert report["threat"]["queries"] == 300
    assert report["attacks"][0]["backward"] == 0
    assert all(example["queries"] <= 300 for example in report["examples"])
    assert any(example["distance"] for example in report["examples"])


@pytest.mark.slow
def test_labels_of_the_real_network_alone(invoke: Invoke) -> None:
    result = invoke(
        "evaluate --threat l2 --n 2 --json --access decision "
        "--attacks foolbox:HopSkipJumpAttack --queries 300"
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["clean_accuracy"]["value"] == 1
    assert all(0 < example["queries"] <= 300 for example in report["examples"])


def test_options_reach_the_attacks(digits: str, invoke: Invoke) -> None:
    result = invoke(
        f"{digits} --n 4 --json --attacks fgsm,pgd "
        "--options pgd.steps=3,pgd.loss=margin,fgsm.loss=dlr"
    )
    rows = json.loads(result.out)["attacks"]
    assert [row["options"]["loss"] for row in rows] == ["dlr", "margin"]
    assert rows[1]["options"]["steps"] == 3


def test_a_saved_model_is_evaluated(invoke: Invoke, tmp_path: Path) -> None:
    model = models.load("cnn", classes=10, channels=1)
    models.save(model, tmp_path, spec="cnn", arguments={"classes": 10, "channels": 1})
    words = "--data digits --n 4 --attacks fgsm --json"
    saved = invoke(f"evaluate --model {tmp_path} {words}")
    assert saved.code == 0, saved.err
    weights = invoke(f"evaluate --model cnn --weights {tmp_path} {words}")
    assert weights.code == 0, weights.err
    reports = [json.loads(result.out) for result in (saved, weights)]
    assert reports[0]["model"]["sha256"] == reports[1]["model"]["sha256"]
    assert reports[0]["examples"] == reports[1]["examples"]


def test_the_description_is_in_the_report(digits: str, invoke: Invoke, tmp_path: Path) -> None:
    about = tmp_path / "about.toml"
    about.write_text('name = "Digits [bold]net[/bold]"\n')
    result = invoke(f"{digits} --n 4 --attacks fgsm --about {about}")
    assert result.code == 0, result.err
    assert "Digits [bold]net[/bold]" in result.out


@dataclass(frozen=True, kw_only=True)
class Outside(Cheat):
    """Returns the inverted image."""

    way: str = "outside"


@pytest.mark.parametrize("json_only", [False, True])
def test_a_violation_has_an_exit_code(
    json_only: bool, digits: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat = Entry(
        kind="attacks",
        name="cheat",
        target=f"{__name__}:Outside",
        summary="cheats",
        access="decision",
        norms=("linf",),
        goals=("untargeted",),
    )
    monkeypatch.setattr(registry, "_all", lambda: (*registry.BUILTIN, cheat))
    result = invoke(f"{digits} --n 8 --attacks cheat,fgsm {'--json' if json_only else ''}".strip())
    assert result.code == 3, result.err
    if json_only:
        report = json.loads(result.out)
        jsonschema.validate(report, schema())
        assert report["violations"] == 8
        assert [flag["id"] for flag in report["flags"]] == ["F6", "F11"]
        assert {row["name"]: row["violations"] for row in report["attacks"]} == {
            "cheat": 8,
            "fgsm": 0,
        }
    else:
        assert "Violations: 8 examples came back" in " ".join(result.out.split())


def test_every_command_has_help(invoke: Invoke) -> None:
    for words in ("--help", "-h", *(f"{name} --help" for name in commands.commands)):
        result = invoke(words)
        assert result.code == 0
        assert result.out.startswith("Usage: robustkit")
        assert "\\b" not in result.out, "a mark of click that was printed instead of obeyed"
        assert result.err == ""
    for option in ("--threat", "--attacks", "--resume", "--json"):
        assert option in invoke("evaluate --help").out


def test_version(invoke: Invoke) -> None:
    result = invoke("--version")
    assert (result.code, "robustkit" in result.out) == (0, True)


def test_list_names_everything(invoke: Invoke) -> None:
    whole = invoke("list")
    assert whole.code == 0
    assert ESCAPE not in whole.out
    for kind in registry.KINDS:
        part = invoke(f"list {kind}")
        for name in registry.entries(kind):
            assert name in part.out
            assert name in whole.out


@pytest.mark.parametrize("kind", registry.KINDS)
def test_everything_listed_can_be_shown(kind: str, invoke: Invoke) -> None:
    for name, entry in registry.entries(kind).items():
        if entry.extra:
            continue
        result = invoke(f"show {name}")
        assert result.code == 0, result.err
        assert entry.summary in result.out
        assert "No description" not in result.out


def test_show_tells_options_and_reference(invoke: Invoke) -> None:
    result = invoke("show pgd")
    assert "pgd.steps=40" in result.out
    assert "Reference:" in result.out
    assert "access: gradient" in result.out
    assert "HopSkipJumpAttack" in invoke("show foolbox").out


@pytest.mark.parametrize("name", list(registry.entries("threats")))
def test_a_shown_threat_can_be_copied(name: str, invoke: Invoke, tmp_path: Path) -> None:
    preset = threat_models.load(name)
    _, _, text = invoke(f"show {name}").out.partition("--threat NAME.toml:\n")
    assert bool(text) is (preset.perturbation is not None)
    if text:
        (tmp_path / "own.toml").write_text(text)
        assert threat_models.load(str(tmp_path / "own.toml")) == preset


@pytest.mark.parametrize(
    "words", ["--help", "--version", "list", "list attacks", "evaluate --help", "show --help"]
)
def test_torch_is_not_imported(words: str) -> None:
    result = command(*shlex.split(words), code=WITHOUT_TORCH)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert len(result.stdout) > 10


def test_foreign_folders_of_the_same_names_are_not_touched(victim: Path, tmp_path: Path) -> None:
    trap = "raise SystemExit('a foreign file was imported')\n"
    for package in ("attacks", "defenses", "threat_models", "data", "report"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(trap)
    (tmp_path / "models.py").write_text(trap)
    words = f"evaluate --model {victim}:make --data digits --eps 0.2 --n 4 --attacks fgsm --json"
    for arguments in (words, "list attacks"):
        result = command(*shlex.split(arguments), folder=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "foreign" not in result.stdout + result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", ["list", "show pgd", "--help"])
def test_a_reader_that_has_gone_gets_no_traceback(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "robustkit", *shlex.split(words)],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("words", ["list", "show pgd", "--help"])
def test_a_full_disk_behind_stdout_is_told_in_a_line(words: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "robustkit", *shlex.split(words)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 4
    assert result.stderr.startswith("Error: The output cannot be written: ")
    assert result.stderr.count("\n") == 1


def test_an_interruption_of_the_start_is_one() -> None:
    code = (
        "import builtins, sys\n"
        "from robustkit.cli import main\n"
        "usual = builtins.__import__\n"
        "def interrupted(name, *more, **named):\n"
        "    if name == 'click':\n"
        "        raise KeyboardInterrupt\n"
        "    return usual(name, *more, **named)\n"
        "builtins.__import__ = interrupted\n"
        "main(['list'])\n"
    )
    result = command(code=code)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


def test_the_command_of_a_report_gives_the_same_report(digits: str, invoke: Invoke) -> None:
    first = json.loads(invoke(f"{digits} --n 6 --attacks fgsm --json").out)
    program, *words = shlex.split(first["command"])
    assert program == "robustkit"
    second = json.loads(invoke("", *words).out)
    assert first["examples"] == second["examples"]
    assert first["model"] == second["model"]
    assert torch.get_num_threads() == first["environment"]["threads"]
