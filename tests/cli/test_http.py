"""Attacking a classifier that runs in a process of its own, by the command line."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.models.serving import documented

WIDTH = 4

# The server of the documentation around a classifier of digits; it counts the images it was asked
# about, and may end itself at some number of them. It always works at one width: an answer's last
# bits depend on it.
AROUND = """
import os, runpy, sys

import torch

from robustkit.passes import padded

torch.set_num_threads(1)
model = runpy.run_path(sys.argv[1])["make"]().eval()
port, last = int(sys.argv[2]), int(sys.argv[3])
count = 0


def classify(pixels):
    global count
    if count + len(pixels) > last:
        os._exit(1)
    count += len(pixels)
    with torch.no_grad():
        found = model(padded(torch.from_numpy(pixels.copy()), 4)).argmax(1)
    return found[: len(pixels)].tolist()


class Counted(Victim):
    def do_GET(self):
        self.reply({"count": count}) if self.path == "/count" else super().do_GET()

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("localhost", port), Counted)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def serving(victim: Path, folder: Path, *, port: int = 0, last: int = 10**9) -> Iterator[int]:
    """The port of a server that answers for a victim, in another process."""
    script = folder / "server.py"
    script.write_text(documented() + AROUND)
    words = [sys.executable, str(script), str(victim), str(port), str(last)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def counted(port: int) -> int:
    with urllib.request.urlopen(f"http://localhost:{port}/count") as response:
        return int(json.load(response)["count"])


def words(model: str, *, queries: int = 200) -> str:
    return (
        f"evaluate --threat l2-decision --eps 0.8 --queries {queries} --model {model} --data digits"
        f" --n 8 --batch-size {WIDTH} --json"
    )


def read(printed: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(printed)
    return table


def test_a_deployed_classifier_fares_as_the_same_one_here(
    victim: Path, tmp_path: Path, invoke: Invoke
) -> None:
    here = invoke(words(f"{victim}:make"))
    assert here.code == 0
    local = read(here.out)
    with serving(victim, tmp_path) as port:
        there = invoke(words(f"http://localhost:{port}"))
        assert (there.code, there.err.count("Error")) == (0, 0)
        report = read(there.out)
        asked = report["cost"]["forward"] + report["diagnostics"]["guards"]["forward"]
        assert counted(port) == asked
    assert report["examples"] == local["examples"]
    # Here the nearest points are known too: the model at hand gives gradients.
    assert local["curves"].pop("nearest")["median"] > 0
    assert all(point.pop("times_nearest") >= 1 for point in local["curves"]["queries"])
    assert report["curves"] == local["curves"]
    assert report["cost"]["forward"] == local["cost"]["forward"]
    # It is no proof that nothing was found on both sides.
    assert sum(example["distance"] is not None for example in report["examples"]) >= 6
    assert report["attacks"][0]["queries"] == 200 * report["attacks"][0]["examples_in"]
    assert report["model"]["spec"] == f"http://localhost:{port}"
    assert report["model"]["parameters"] is None


def test_a_server_that_ends_in_the_middle_costs_nothing_that_was_found(
    victim: Path, tmp_path: Path, invoke: Invoke
) -> None:
    whole = read(invoke(words(f"{victim}:make", queries=60)).out)
    out = f"--out={tmp_path / 'run'}"
    with serving(victim, tmp_path, last=16 + 8 + 4 * 60 + 100) as port:
        command = words(f"http://localhost:{port}#retries=1,pause=0.01", queries=60)
        stopped = invoke(command, out)
        assert stopped.code == 4
        assert "cannot be reached" not in stopped.err
        assert "gave no answer in 2 tries" in stopped.err
        assert "Go on with:" in stopped.err
        assert stopped.out == ""
    kept = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert kept.count(b'"stage": 0') == 1
    gone = invoke(command, out, "--resume")
    assert gone.code == 2
    assert "cannot be reached" in gone.err
    with serving(victim, tmp_path, port=port) as port:
        resumed = invoke(command, out, "--resume")
        # The finished half was not asked about again.
        assert counted(port) == 28 + (4 * 60 + 8) - 4
    assert resumed.code == 0
    assert (tmp_path / "run" / "records.jsonl").read_bytes().startswith(kept)
    assert read(resumed.out)["examples"] == whole["examples"]


@pytest.mark.parametrize(
    "more",
    [
        "--threat linf",
        "--threat l2-decision --access gradient",
        "--threat l2-decision --goal targeted:least-likely",
        "--threat l2-decision --attacks pgd",
        "--threat l2-decision --attacks foolbox:L2PGD",
    ],
)
def test_what_labels_do_not_suffice_for_is_bad_input(more: str, invoke: Invoke) -> None:
    # Nothing listens there: it would be told otherwise if anything had been sent.
    result = invoke(f"evaluate --model http://localhost:9 --data digits --n 2 {more}")
    assert result.code == 2
    assert "reached" not in result.err
    assert result.err.count("Error") == 1
    assert "Traceback" not in result.err


def test_a_server_that_is_not_there_is_bad_input(invoke: Invoke) -> None:
    result = invoke("evaluate --threat l2-decision --model http://localhost:9 --data digits --n 2")
    assert result.code == 2
    assert "Error: http://localhost:9 cannot be reached" in result.err
    assert "Go on" not in result.err


def test_training_refuses_it(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke(
        f"train --data digits --model http://localhost:9 --epochs 1 --out {tmp_path / 'trained'}"
    )
    assert result.code == 2
    assert "Traceback" not in result.err


def test_it_is_listed_and_shown(invoke: Invoke) -> None:
    assert "http://HOST:PORT" in invoke("list models").out
    shown = invoke("show http").out
    assert "labels only" in shown
    assert "rate" in shown
