"""Saved directories: what was written comes back, and nothing in them runs."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from robustkit import registry
from robustkit.errors import (
    BadInput,
    CannotWrite,
    CorruptFile,
    MissingFile,
    RobustkitError,
    UnknownName,
)
from robustkit.models import CNN, load, read_record, rebuild, recipe, save
from robustkit.models.saved import DESCRIPTION, JSON


class Voting(nn.Module):
    """The mean of its members' logits: a stand-in for a defense of a higher layer."""

    def __init__(self, members: list[nn.Module], *, weight: float) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weight = weight

    @classmethod
    def rebuild(cls, *, members: list[Mapping[str, JSON]], weight: float) -> Self:
        return cls([rebuild(member) for member in members], weight=weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight * torch.stack([member(inputs) for member in self.members]).mean(dim=0)


@pytest.fixture
def voting(monkeypatch: pytest.MonkeyPatch) -> registry.Entry:
    """An entry `defenses:voting`, as a higher layer would register it."""
    entry = registry.Entry(
        kind="defenses", name="voting", target=f"{__name__}:Voting", summary="Mean of logits"
    )
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, "defenses"))
    monkeypatch.setattr(registry, "_all", lambda: (*registry.BUILTIN, entry))
    return entry


def used(model: nn.Module, images: Tensor) -> nn.Module:
    """The model after two batches in training mode: its buffers are no longer the initial ones."""
    model.train()
    with torch.no_grad():
        model(images)
        model(images + 1)
    return model.eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def directory(tmp_path: Path, images: Tensor) -> Path:
    """A saved network."""
    path = tmp_path / "saved"
    save(used(CNN(classes=4, seed=5), images), path, spec="cnn", arguments={"classes": 4})
    return path


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("cnn", {"classes": 3, "channels": 3, "activation": "silu"}),
        ("resnet-8", {"classes": 3, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}),
        ("wrn-16-1", {"classes": 3, "size": 32, "channels": None}),
    ],
)
def test_a_model_comes_back_bit_for_bit(
    tmp_path: Path, images: Tensor, spec: str, arguments: dict[str, JSON]
) -> None:
    built = rebuild(recipe(spec, arguments))
    model = used(built, images)
    save(model, tmp_path / "a" / "b", spec=spec, arguments=arguments, about={"paper": "none"})
    again = load(str(tmp_path / "a" / "b"))
    assert same(model, again)
    assert torch.equal(model(images), again(images))
    assert not again.training
    record = read_record(tmp_path / "a" / "b")
    assert record["about"] == {"paper": "none"}
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(
        [DESCRIPTION, str(record["weights"])]
    )


def test_the_builtin_model_and_torchvisions_come_back_without_their_weights(
    tmp_path: Path, images: Tensor
) -> None:
    for number, spec in enumerate(("builtin:cifar10-resnet18", "torchvision:resnet18@none")):
        model = used(load(spec), images)
        save(model, tmp_path / str(number), spec=spec, arguments={})
        assert same(model, load(str(tmp_path / str(number))))


def test_a_saved_model_can_be_trained_on_and_saved_again(directory: Path, images: Tensor) -> None:
    model = used(load(str(directory)), images)
    other = directory.parent / "other"
    save(model, other, spec=str(directory), arguments={})
    assert same(model, load(str(other)))
    save(model, directory, spec=str(directory), arguments={})
    assert same(model, load(str(directory)))
    assert len(list(directory.iterdir())) == 2


def test_saving_leaves_other_files_alone(directory: Path) -> None:
    (directory / "model-mine.safetensors").touch()
    (directory / "log.txt").touch()
    save(CNN(), directory, spec="cnn", arguments={})
    assert {"model-mine.safetensors", "log.txt"} <= {path.name for path in directory.iterdir()}


def test_a_directory_serves_as_weights(directory: Path) -> None:
    model = load("cnn", weights=directory, classes=4)
    assert same(model, load(str(directory)))


def test_other_weights_replace_those_of_a_directory(directory: Path, tmp_path: Path) -> None:
    other = CNN(classes=4, seed=9)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    assert same(load(str(directory), weights=tmp_path / "other.pt"), other)


def test_loading_leaves_the_global_generator_alone(directory: Path) -> None:
    before = torch.get_rng_state()
    load(str(directory))
    assert torch.equal(before, torch.get_rng_state())


def test_something_of_a_higher_layer_comes_back_as_itself(
    tmp_path: Path, images: Tensor, voting: registry.Entry
) -> None:
    members = [CNN(classes=3, width=4, seed=seed) for seed in (1, 2)]
    model = used(Voting(list(members), weight=0.5), images)
    made: list[JSON] = [recipe("cnn", {"classes": 3}) for _ in members]
    model.members = nn.ModuleList(CNN(classes=3, seed=seed) for seed in (1, 2))
    arguments: dict[str, JSON] = {"members": made, "weight": 0.5}
    save(model, tmp_path / "vote", spec="defenses:voting", arguments=arguments)
    again = load(str(tmp_path / "vote"))
    assert isinstance(again, Voting)
    assert same(again, model)
    assert torch.equal(again(images), model.eval()(images))


def test_shared_weights_can_be_saved(tmp_path: Path) -> None:
    model = CNN()
    model.set_submodule("bn2", model.get_submodule("bn1"))
    model.get_parameter("bn1.weight").data.fill_(0.25)
    save(model, tmp_path, spec="cnn", arguments={})
    assert load(str(tmp_path)).get_parameter("bn2.weight")[0] == 0.25


def test_code_is_remembered_and_never_run(tmp_path: Path, images: Tensor) -> None:
    marker, file = tmp_path / "marker", tmp_path / "mine.py"
    file.write_text(
        "from pathlib import Path\nfrom robustkit.models import CNN\n"
        f"Path({str(marker)!r}).touch()\ndef make():\n    return CNN()\n"
    )
    spec = f"{file}:make"
    model = used(load(spec), images)
    marker.unlink()
    save(model, tmp_path / "out", spec=spec, arguments={})
    with pytest.raises(BadInput, match="never runs code"):
        load(str(tmp_path / "out"))
    assert not marker.exists()
    assert same(load(spec, weights=tmp_path / "out"), model)


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(errno.ENOSPC, "No space left"), CannotWrite), (PermissionError("no"), BadInput)],
)
def test_a_failed_write_keeps_the_old_model(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
    error: OSError,
    kind: type[RobustkitError],
) -> None:
    old, calls = load(str(directory)), 0

    def failing(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise error

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(kind, match="saved"):
        save(CNN(seed=8), directory, spec="cnn", arguments={})
    assert same(load(str(directory)), old)
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def test_a_file_in_the_way_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="cannot be written"):
            save(CNN(), target, spec="cnn", arguments={})


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for value in (torch.ones(1), float("nan")):
        with pytest.raises(BadInput, match="JSON"):
            save(CNN(), tmp_path / "x", spec="cnn", arguments={"mean": value})  # type: ignore[dict-item]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"entry": "cnnn"}, UnknownName, "Did you mean cnn"),
        ({"kind": "modles"}, UnknownName, "models"),
        ({"arguments": {"colour": 3}}, CorruptFile, "colour"),
        ({"arguments": {"classes": "many"}}, CorruptFile, "arguments"),
        ({"arguments": {"classes": 5}}, BadInput, "linear.weight"),
        ({"arguments": 3}, CorruptFile, "arguments"),
        ({"weights": "../../etc/passwd"}, CorruptFile, "outside"),
        ({"weights": "gone.safetensors"}, MissingFile, "gone"),
        ({"sha256": "00"}, CorruptFile, "SHA-256"),
        ({"format": 99}, BadInput, "99"),
        ({"format": None}, CorruptFile, "not a description"),
        ({"kind": "data"}, BadInput, "--data"),
    ],
)
def test_a_changed_description_is_refused(
    directory: Path, change: dict[str, object], error: type[Exception], words: str
) -> None:
    file = directory / DESCRIPTION
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(error, match=words):
        load(str(directory))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_description_is_refused(directory: Path, content: bytes) -> None:
    (directory / DESCRIPTION).write_bytes(content)
    with pytest.raises(CorruptFile, match=r"robustkit\.json"):
        load(str(directory))


def test_damaged_weights_are_refused(directory: Path) -> None:
    [file] = directory.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptFile, match="SHA-256"):
        load(str(directory))
    file.write_bytes(content[:-100])
    with pytest.raises(CorruptFile):
        load("cnn", weights=directory, classes=4)
    file.unlink()
    with pytest.raises(MissingFile, match="lost"):
        load(str(directory))


def test_an_entry_that_gives_no_model_is_refused(directory: Path) -> None:
    file = directory / DESCRIPTION
    record = {**json.loads(file.read_text()), "kind": "data", "entry": "digits", "arguments": {}}
    with pytest.raises(BadInput):
        rebuild(record)
