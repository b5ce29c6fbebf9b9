"""Models of other packages: torchvision as it is, timm and RobustBench as stand-ins."""

import os
import pickle
import sys
import urllib.error
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustkit.errors import BadInput, MissingExtra, MissingFile, UnknownName, WeightsMismatch
from robustkit.models import CNN, Normalized, load

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
FILE = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub folder, and no network."""

    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def squeezenet() -> nn.Module:
    """torchvision's SqueezeNet, with the outputs of a linear function of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: nn.Module = torchvision.models.squeezenet1_1(weights=None)
    return model.eval()


def by_hand(model: nn.Module, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    logits: Tensor = model((images - mean) / std)
    return logits


@pytest.fixture
def photographs() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["squeezenet1_1", "squeezenet1_1@IMAGENET1K_V1"])
def test_torchvisions_weights_come_from_the_hub_folder_and_normalise(
    hub: Path, squeezenet: nn.Module, photographs: Tensor, name: str
) -> None:
    torch.save(squeezenet.state_dict(), hub / FILE)
    model = load(f"torchvision:{name}", classes=1000, channels=3)
    torch.testing.assert_close(model(photographs), by_hand(squeezenet, photographs))


def test_a_file_of_ones_own_serves_too(
    tmp_path: Path, squeezenet: nn.Module, photographs: Tensor
) -> None:
    file = tmp_path / "mine.pth"
    torch.save({f"module.{k}": v for k, v in squeezenet.state_dict().items()}, file)
    model = load("torchvision:squeezenet1_1", weights=file)
    torch.testing.assert_close(model(photographs), by_hand(squeezenet, photographs))


def test_an_untrained_one_has_any_number_of_classes(photographs: Tensor) -> None:
    assert load("torchvision:squeezenet1_1@none", classes=7)(photographs).shape == (2, 7)
    model = load("torchvision:vit_b_32@none", classes=3, size=64)
    assert model(photographs).shape == (2, 3)


def test_offline_and_not_cached_is_said(hub: Path) -> None:
    with pytest.raises(MissingFile, match=r"squeezenet1_1-b8a52dc0.*offline.*--weights FILE"):
        load("torchvision:squeezenet1_1")
    assert list(hub.iterdir()) == []


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def test_a_cached_pickle_never_runs(hub: Path, tmp_path: Path) -> None:
    (hub / FILE).write_bytes(pickle.dumps({"a": Evil(tmp_path / "marker")}, protocol=2))
    with pytest.raises(BadInput, match=r"could not be loaded from \S+ \(UnpicklingError\)"):
        load("torchvision:squeezenet1_1")
    assert not (tmp_path / "marker").exists()


def test_what_torchvision_does_not_have_is_said() -> None:
    with pytest.raises(BadInput, match=r"Near names: .*resnet18"):
        load("torchvision:resnet1")
    with pytest.raises(BadInput, match="no model 'fasterrcnn_resnet50_fpn'"):
        load("torchvision:fasterrcnn_resnet50_fpn")
    with pytest.raises(UnknownName, match="IMAGENET1K_V1, IMAGENET1K_V2, none"):
        load("torchvision:resnet50@V9")
    with pytest.raises(BadInput, match="3 channels; 1 were"):
        load("torchvision:resnet18@none", channels=1)
    with pytest.raises(WeightsMismatch, match="1000 classes, and 10 were asked for"):
        load("torchvision:resnet18", classes=10)


@pytest.mark.parametrize(
    ("spec", "extra"), [("timm:resnet18", "timm"), ("robustbench:Standard", "robustbench")]
)
def test_an_absent_package_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, spec: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'robustkit\[{extra}\]'"):
        load(spec)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A stand-in for timm; the value lists how models were created."""
    created: list[dict[str, object]] = []
    names = ["tiny_net", "tiny_vit"]

    def create_model(name: str, **options: Any) -> nn.Module:  # noqa: ANN401
        created.append({"name": name, **options})
        if options["pretrained"] and name == "tiny_vit":
            raise OSError("We couldn't connect to 'https://huggingface.co'\nmore")
        return CNN(
            classes=options["num_classes"],
            channels=options["in_chans"],
            seed=1 if options["pretrained"] else 2,
        )

    def get_pretrained_cfg(name: str) -> SimpleNamespace:
        if ".bogus" in name:
            raise RuntimeError("Invalid pretrained tag (bogus)")
        return SimpleNamespace(
            mean=(0.2, 0.4, 0.6),
            std=(0.1, 0.2, 0.3),
            num_classes=12,
            fixed_input_size=name == "tiny_vit",
        )

    module = ModuleType("timm")
    vars(module).update(
        is_model=lambda name: name.partition(".")[0] in names,
        list_models=lambda: names,
        list_pretrained=lambda pattern: [pattern.replace("*", "in1k")],
        get_pretrained_cfg=get_pretrained_cfg,
        create_model=create_model,
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return created


def test_timms_models_are_trained_and_normalise(
    timm: list[dict[str, object]], images: Tensor
) -> None:
    model = load("timm:tiny_net", classes=12)
    assert timm == [{"name": "tiny_net", "pretrained": True, "num_classes": 12, "in_chans": 3}]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.2, 0.4, 0.6), (0.1, 0.2, 0.3)))
    torch.testing.assert_close(model(images), CNN(classes=12, seed=1).eval()((images - mean) / std))


def test_timms_untrained_models_take_any_shape(timm: list[dict[str, object]]) -> None:
    model = load("timm:tiny_vit@none", classes=5, channels=1, size=28)
    assert timm[0] == {
        "name": "tiny_vit",
        "pretrained": False,
        "num_classes": 5,
        "in_chans": 1,
        "img_size": 28,
    }
    assert isinstance(model, Normalized)
    assert model.normalize.mean.flatten().tolist() == pytest.approx([0.4])
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 5)


def test_timms_models_take_a_file(
    timm: list[dict[str, object]], tmp_path: Path, images: Tensor
) -> None:
    torch.save(CNN(classes=4, seed=6).state_dict(), tmp_path / "mine.pt")
    model = load("timm:tiny_net", weights=tmp_path / "mine.pt", classes=4)
    assert timm[0]["pretrained"] is False
    assert isinstance(model, Normalized)
    assert torch.equal(model.model(images), CNN(classes=4, seed=6).eval()(images))


def test_what_timm_does_not_have_is_said(timm: list[dict[str, object]]) -> None:
    with pytest.raises(BadInput, match="Near names: tiny_net"):
        load("timm:tiny_nett")
    with pytest.raises(BadInput, match=r"it has: tiny_net\.in1k"):
        load("timm:tiny_net.bogus")
    with pytest.raises(WeightsMismatch, match="12 classes, and 10"):
        load("timm:tiny_net", classes=10)
    with pytest.raises(
        MissingFile, match=r"Hugging Face hub \(OSError: We couldn't connect.*offline"
    ):
        load("timm:tiny_vit")


class BenchmarkDataset(Enum):
    cifar_10 = "cifar10"
    imagenet = "imagenet"


class ThreatModel(Enum):
    Linf = "Linf"
    L2 = "L2"


@pytest.fixture
def robustbench(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A stand-in for RobustBench, laid out as it is; the value lists what was loaded."""
    loaded: list[dict[str, object]] = []

    def load_model(**options: object) -> nn.Module:
        loaded.append({**options, "safe": os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")})
        print("Downloading")  # noqa: T201 - so does RobustBench
        if options["dataset"] == "imagenet":
            raise ConnectionError("no route")
        return CNN(seed=1)

    row = {"Standard": {"model": lambda: CNN(seed=2), "gdrive_id": "x"}}
    modules = {
        name: ModuleType(name)
        for name in (
            "robustbench",
            "robustbench.model_zoo",
            "robustbench.model_zoo.enums",
            "robustbench.utils",
        )
    }
    vars(modules["robustbench.model_zoo"])["model_dicts"] = {
        BenchmarkDataset.cifar_10: {ThreatModel.Linf: row, ThreatModel.L2: row},
        BenchmarkDataset.imagenet: {ThreatModel.Linf: row},
    }
    vars(modules["robustbench.model_zoo.enums"]).update(
        BenchmarkDataset=BenchmarkDataset, ThreatModel=ThreatModel
    )
    vars(modules["robustbench.utils"])["load_model"] = load_model
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return loaded


@pytest.mark.parametrize(
    ("name", "data", "threat"),
    [("Standard", "cifar10", "Linf"), ("cifar10/L2/Standard", "cifar10", "L2")],
)
def test_robustbenchs_models_load_safely_and_quietly(
    robustbench: list[dict[str, object]],
    tmp_path: Path,
    images: Tensor,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: str,
    threat: str,
) -> None:
    model = load(f"robustbench:{name}", classes=10, channels=3, size=32)
    assert torch.equal(model(images), CNN(seed=1).eval()(images))
    assert robustbench == [
        {
            "model_name": "Standard",
            "model_dir": str(tmp_path / "torch" / "hub" / "robustbench"),
            "dataset": data,
            "threat_model": threat,
            "safe": "1",
        }
    ]
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert capsys.readouterr().out == ""


def test_robustbenchs_models_take_a_file(
    robustbench: list[dict[str, object]], tmp_path: Path
) -> None:
    torch.save(CNN(seed=6).state_dict(), tmp_path / "mine.pt")
    model = load("robustbench:Standard", weights=tmp_path / "mine.pt")
    assert robustbench == []
    wanted = CNN(seed=6).get_parameter("conv1.weight")
    assert torch.equal(model.get_parameter("conv1.weight"), wanted)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Standrad", "Near names: Standard"),
        ("imagenet/L2/Standard", "no models for data 'imagenet' and threat 'L2'"),
        ("mnist/L2/Standard", "'mnist'"),
        ("L2/Standard", r"\[DATA/THREAT/\]NAME"),
        ("imagenet/Linf/Standard", r"Google Drive folder \(ConnectionError: no route\)"),
    ],
)
def test_what_robustbench_does_not_have_is_said(
    robustbench: list[dict[str, object]], name: str, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        load(f"robustbench:{name}")
