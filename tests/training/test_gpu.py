"""Training on a GPU."""

import pytest
import torch

from robustkit.data import LabelledImages
from robustkit.models.resnet import BasicBlock, ResNet
from robustkit.threat_models import load
from robustkit.training import Extra, Runtime, Trainer
from robustkit.training.losses import AWP, TRADES, FreeTraining, Loss, PGDTraining

LINF = load("linf")

pytestmark = pytest.mark.gpu


def noise(n: int) -> LabelledImages:
    images = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return LabelledImages.from_tensors(images, torch.arange(n) % 10)


@pytest.mark.parametrize(
    "loss",
    [
        PGDTraining(threat=LINF, steps=2),
        AWP(loss=TRADES(threat=LINF, steps=2)),
        FreeTraining(threat=LINF, replays=2),
    ],
    ids=["pgd", "trades-awp", "free"],
)
def test_resnet_18_learns_in_bf16(loss: Loss) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = ResNet(BasicBlock, (2, 2, 2, 2), classes=10, channels=3, width=16)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    runtime = Runtime(device="cuda", dtype="bf16", channels_last=True)
    trainer = Trainer(epochs=2, batch_size=32, runtime=runtime)
    result = trainer.fit(model, noise(64), loss, extra=Extra(images=noise(40), share=0.5))
    assert result.stopped_by == "epochs"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert any(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
