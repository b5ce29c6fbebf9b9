"""Trainings in a process of its own: `python -m tests.training.job FOLDER KIND...`.

Under the variables that torchrun sets it is one of several processes. Each writes its final weights
to `FOLDER/KIND-RANK.safetensors`.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustkit.training import SGD, Batch, Extra, RobustAccuracy, Runtime, Selection, Trainer
from robustkit.training.losses import AWP, TRADES, FreeTraining, Loss, PGDTraining
from robustkit.training.losses.early_learning import EarlyLearning
from tests.training.tiny import L2, LINF, Normed, Smooth, state, tiny_data

LOSSES: dict[str, Loss] = {
    "pgd": PGDTraining(threat=LINF, steps=2),
    "trades": TRADES(threat=L2, steps=2, joint=False),
    "awp": AWP(loss=PGDTraining(threat=LINF, steps=2)),
    "free": FreeTraining(threat=LINF, replays=2),
    "early": EarlyLearning(),
}

EXTRA = Extra(images=tiny_data(30, seed=5), share=0.5)


class Telling:
    """A loss that says on stdout when it is asked, so that a test can end the process there."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __repr__(self) -> str:
        return repr(self.loss)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        say("step")
        return self.loss(model, batch)


def say(text: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def trainer(out: Path | None, *, resume: bool = False) -> Trainer:
    """What the processes do."""
    return Trainer(
        epochs=4,
        batch_size=12,
        optimizer=SGD(lr=0.1),
        selection=Selection(n=12, score=RobustAccuracy(threat=LINF, steps=2), batch_size=5),
        runtime=Runtime(device="cpu"),
        out=out,
        resume=resume,
        checkpoint_steps=2,
    )


def train(folder: Path, kind: str) -> None:
    """Train and write what came out."""
    name, _, network = kind.partition("-")
    model: nn.Module = Normed() if network == "normed" else Smooth()
    if network == "telling":
        run = trainer(folder / "run", resume=True)
        result = run.fit(model, tiny_data(), Telling(LOSSES[name]))
    elif network == "extra":
        result = trainer(None).fit(model, tiny_data(), LOSSES[name], extra=EXTRA)
    else:
        result = trainer(None).fit(model, tiny_data(), LOSSES[name])
    say(result.stopped_by)
    save_file(state(model), folder / f"{kind}-{os.environ.get('RANK', '0')}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in sys.argv[2:]:
        train(Path(sys.argv[1]), kind)
