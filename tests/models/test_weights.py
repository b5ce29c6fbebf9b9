"""Weights files: wrappers, mismatches, damage, and pickles that would run code."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from robustkit.errors import BadInput, CorruptFile, MissingFile, WeightsMismatch
from robustkit.models import CNN, Normalize, Normalized, load
from robustkit.models.weights import fit, read


@pytest.fixture
def trained() -> CNN:
    """A network whose every tensor differs from those of a new one."""
    model = CNN(width=4, seed=7)
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        else:
            value.fill_(5)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models have the same names and bits."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "lightning": lambda state: {
        "state_dict": {f"model.module.{name}": value for name, value in state.items()}
    },
    "averaged": lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": value for name, value in state.items()},
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_usual_wrappers_are_taken_off(
    trained: CNN, tmp_path: Path, wrapper: str, zipped: bool
) -> None:
    file = tmp_path / "weights.pt"
    content = WRAPPERS[wrapper](dict(trained.state_dict()))
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    model = CNN(width=4)
    fit(model, read(file), source=str(file))
    assert same(model, trained)


def test_safetensors_are_read(trained: CNN, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(trained.state_dict(), file)
    model = CNN(width=4)
    fit(model, read(file), source=str(file))
    assert same(model, trained)


def test_weights_go_behind_a_normalisation_unless_they_have_their_own(trained: CNN) -> None:
    def fresh() -> Normalized:
        return Normalized(Normalize([0.5], [0.5]), CNN(width=4))

    for prefix in ("", "module.", "model."):
        model = fresh()
        fit(model, {prefix + k: v for k, v in trained.state_dict().items()}, source="x")
        assert same(model.model, trained)
        assert model.normalize.mean.item() == 0.5
    whole = Normalized(Normalize([0.25], [2.0]), trained)
    for prefix in ("", "module."):
        model = fresh()
        fit(model, {prefix + k: v for k, v in whole.state_dict().items()}, source="x")
        assert same(model, whole)


def test_a_mismatch_names_the_first_few_of_each_kind(trained: CNN) -> None:
    state = dict(trained.state_dict())
    state["linear.weight"] = torch.zeros(7, 8)
    del state["conv2.weight"]
    state.update({f"extra{number}": torch.zeros(1) for number in range(5)})
    with pytest.raises(WeightsMismatch) as caught:
        fit(CNN(width=4), state, source="some.pt")
    message = str(caught.value)
    assert "some.pt" in message
    assert "1 missing (conv2.weight)" in message
    assert "5 unexpected (extra0, extra1, extra2, ...)" in message
    assert "linear.weight is (7, 8) and should be (10, 8)" in message


@pytest.mark.parametrize(("change", "words"), [(None, "1 missing"), ("extra", "1 unexpected")])
def test_one_name_too_many_or_too_few_is_refused(
    trained: CNN, change: str | None, words: str
) -> None:
    state = dict(trained.state_dict())
    value = state.pop("bn1.weight") if change is None else torch.zeros(1)
    if change is not None:
        state[change] = value
    with pytest.raises(WeightsMismatch, match=words):
        fit(CNN(width=4), state, source="x")


def test_batch_counters_may_be_absent_as_in_old_files(trained: CNN) -> None:
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    model = CNN(width=4)
    fit(model, state, source="x")
    assert torch.equal(model.get_parameter("conv4.weight"), trained.get_parameter("conv4.weight"))


def test_weights_of_another_architecture_do_not_fit(tmp_path: Path, trained: CNN) -> None:
    file = tmp_path / "cnn.pt"
    torch.save(trained.state_dict(), file)
    with pytest.raises(WeightsMismatch, match="missing"):
        load("resnet-8", weights=file)
    with pytest.raises(WeightsMismatch, match=r"conv1\.weight is \(4, 3, 3, 3\)"):
        load("cnn", weights=file)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def write_zip(content: object, file: Path) -> None:
    torch.save(content, file)


def write_legacy(content: object, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def write_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


def write_old_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content, protocol=0))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_pickle, write_old_pickle])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl"])
def test_code_in_a_pickle_never_runs(
    tmp_path: Path, write: Callable[[object, Path], None], suffix: str
) -> None:
    marker, file = tmp_path / "marker", tmp_path / f"weights{suffix}"
    write({"conv1.weight": Evil(marker)}, file)
    with pytest.raises(BadInput, match=r"it names posix\.system") as caught:
        load("cnn", weights=file)
    assert "nothing was run" in str(caught.value)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # the file would have written it
    assert marker.exists()


def test_code_behind_another_name_never_runs(tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "weights.safetensors"
    write_zip({"conv1.weight": Evil(marker)}, file)
    with pytest.raises(CorruptFile, match="safetensors"):
        load("cnn", weights=file)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused_with_advice(tmp_path: Path, trained: CNN) -> None:
    torch.save(trained, tmp_path / "model.pt")
    with pytest.raises(BadInput, match=r"state_dict\(\)"):
        read(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world\n", bytes(range(256)) * 4])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"weights\.(pt|safetensors)"):
        read(file)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, trained: CNN, form: str, share: float) -> None:
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        safetensors.torch.save_file(trained.state_dict(), file)
    else:
        (write_zip if form == "zip" else write_legacy)(dict(trained.state_dict()), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptFile):
        read(file)


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [1, 2], 7, {"model": 3}, {"state_dict": {"a": 1}}, torch.ones(2)]
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CorruptFile, match="holds no weights"):
        read(tmp_path / "weights.pt")


def test_numpy_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(CorruptFile):
        read(tmp_path / "weights.npz")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="nowhere"):
        load("cnn", weights=tmp_path / "nowhere.pt")
    with pytest.raises(MissingFile, match=r"robustkit\.json"):
        load("cnn", weights=tmp_path)
    with pytest.raises(BadInput, match="not a file"):
        read(tmp_path)
