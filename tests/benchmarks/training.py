"""Time to robust accuracy on Fashion-MNIST (linf, eps 0.1), small CNN: kinds of robust training
with about the same number of passes, beside standard training. Each run is looked at after half of
it and at its end, by `robustkit evaluate` with the plan `fast` and not by the attack it was trained
with. Passes (one image forward, or one backward) and CPU seconds hold everything that the training
did until then: held-out scores where the schedule follows them, and FGSM's guard. One seed, and
intervals of about 8 points: differences within them are no ranking. The cycle has its highest rate
early and ends near 0, so that its first half looks worse than a shorter cycle would. AccelAT lowers
a rate that starts high where held-out robust accuracy gains less than 2.5 points in 5 epochs; how
often it did is in the table, and without a cut it is a constant rate."""

import copy
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robustkit import data, evaluate
from robustkit.models.cnn import CNN
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import (
    SGD,
    AccuracyGradient,
    OneCycle,
    RobustAccuracy,
    Runtime,
    Schedule,
    Selection,
    Trainer,
)
from robustkit.training.history import Record
from robustkit.training.losses import (
    TRADES,
    FastTraining,
    FreeTraining,
    Loss,
    PGDTraining,
    cross_entropy,
)
from tests.benchmarks.keeping import folder, kept

TITLE = "Time to robust accuracy"
THREAT = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
PGD = PGDTraining(threat=THREAT, steps=3, step_size=0.75)
PARTS = 2


@dataclass(frozen=True, kw_only=True)
class Method:
    """One kind of training: epochs in each half of the run, chosen for about equal passes."""

    loss: Loss
    epochs: int
    schedule: Schedule = dataclasses.field(default_factory=OneCycle)


METHODS: Mapping[str, Method] = {
    "standard": Method(loss=cross_entropy, epochs=6),
    "FGSM-RS": Method(loss=FastTraining(threat=THREAT), epochs=12),
    "Free-AT, 4 replays": Method(loss=FreeTraining(threat=THREAT, replays=4), epochs=6),
    "PGD-AT, 3 steps": Method(loss=PGD, epochs=6),
    "PGD-AT, AccelAT": Method(loss=PGD, epochs=6, schedule=AccuracyGradient()),
    "TRADES, 3 steps": Method(loss=TRADES(threat=THREAT, steps=3, step_size=0.75), epochs=4),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the defaults are the benchmark's."""

    train: int = 3250
    held_out: int = 250
    test: int = 500
    shorten: int = 1


class Watch:
    """Counts passes through a model, and takes its weights after some epochs."""

    def __init__(self, model: nn.Module, every: int) -> None:
        """Begin."""
        self.model = model
        self.every = every
        self.forward = self.backward = 0
        self.taken: list[dict[str, Any]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.handle = model.register_forward_hook(self._count)
        self.start = time.process_time()

    def _count(self, model: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    def begin(self, *, epochs: int, steps: int, epoch: int, step: int) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def epoch(self, record: Record) -> None:
        """Take the weights if it is time; the clock stands still meanwhile."""
        if record["epoch"] % self.every:
            return
        now = time.process_time()
        self.taken.append(
            {
                "epoch": record["epoch"],
                "rate": record["lr"],
                "seconds": now - self.start,
                "passes": self.forward + self.backward,
            }
        )
        self.weights.append(copy.deepcopy(self.model.state_dict()))
        self.start += time.process_time() - now


def run(size: Size | None = None) -> dict[str, Any]:
    """Every method."""
    size = size or Size()
    rows = [row for name in METHODS for row in kept_method(name, size)]
    return {
        "rows": [shown(row) for row in rows],
        "measured": rows,
        "setting": (
            f"{size.train - size.held_out:,} training images ({size.held_out} more are held out "
            f"for AccelAT), batches of 128, SGD at 0.1 with Nesterov momentum, the first "
            f"{size.test} test images, one thread, seed 0"
        ),
    }


def kept_method(name: str, size: Size) -> list[dict[str, Any]]:
    """One method, measured only if nobody has done so before."""
    method = METHODS[name]
    depends_on = {**dataclasses.asdict(size), "loss": repr(method.loss), "epochs": method.epochs}
    depends_on["schedule"] = repr(method.schedule)
    with folder() as place:
        word = "".join(letter for letter in name.lower() if letter.isalnum())
        rows: list[dict[str, Any]] = kept(
            place, f"training-{word}", depends_on, lambda: one_method(name, size)
        )
    return rows


def one_method(name: str, size: Size) -> list[dict[str, Any]]:
    """Train, and evaluate what there was after each half."""
    method = METHODS[name]
    every = max(1, method.epochs // size.shorten)
    whole = data.load("fashion-mnist", split="train", n=size.train, select="stratified")
    score = Selection(n=size.held_out, score=RobustAccuracy(threat=THREAT))
    learnt, _ = score.split(whole, 0)
    model = CNN(classes=10, channels=1)
    watch = Watch(model, every)
    trainer = Trainer(
        epochs=PARTS * every,
        optimizer=SGD(lr=0.1, nesterov=True, decay_vectors=False),
        schedule=method.schedule,
        selection=score if method.schedule.follows_score else None,
        runtime=Runtime(device="cpu", channels_last=True),
        progress=watch,
    )
    trainer.fit(model, whole if method.schedule.follows_score else learnt, method.loss)
    watch.handle.remove()
    test = data.load("fashion-mnist", n=size.test)
    rows = []
    for taken, weights in zip(watch.taken, watch.weights, strict=True):
        model.load_state_dict(weights)
        report = evaluate(model.eval(), test, THREAT, plan="fast")
        if report.violations:
            raise RuntimeError(f"{name}: {report.violations} violations.")
        found = {"clean": report.clean_accuracy, "robust": report.robust_accuracy}
        rows.append(
            {
                "method": name,
                **taken,
                **{what: [one.value, one.low, one.high] for what, one in found.items()},
            }
        )
    return rows


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint as a row of the table."""
    schedule = METHODS[row["method"]].schedule
    if isinstance(schedule, AccuracyGradient):
        cuts = sum(row["rate"] < 0.0999 * schedule.cut**number for number in range(20))
        named = f"{row['method']} ({cuts} cuts)"
    else:
        named = row["method"]
    return {
        "training": named,
        "epochs": row["epoch"],
        "CPU s": row["seconds"],
        "passes, thousands": row["passes"] / 1000,
        "clean, %": percent(row["clean"]),
        "robust, %": percent(row["robust"]),
    }


def percent(interval: tuple[float, float, float]) -> str:
    """A share with its interval."""
    value, low, high = (100 * number for number in interval)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
