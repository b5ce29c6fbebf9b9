"""RiFT on Fashion-MNIST (linf, eps 0.1) beside the choices it does not make. Fine-tuned, on clean
images and one tensor at a time: the one it chooses by lowest MRC, the stem, the one with the
highest MRC behind it; then all of them together. Controls: batch-norm statistics taken anew from
clean images with all weights kept, and the chosen tensor fine-tuned with batch norm in training
mode. Each at the end of the way (alpha 1) and where held-out training images put it (alpha held
out; 0 leaves the base as it is). Clean accuracy on all 10,000 test images, robust accuracy on the
first 1,000 by our evaluation: APGD on the cross-entropy, then PGD on the margin. Base and standard
model differ in nothing but the loss. Gains are over the base of the same seed, in points: the mean
over all seeds, Tango's 95 % interval of all pairs (image, seed), and each seed's."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from robustkit import data, evaluate
from robustkit.attacks import APGD, PGD, EvasionAttack
from robustkit.data import LabelledImages
from robustkit.defenses import RiFT, Tuned
from robustkit.models.resnet import BasicBlock, ResNet
from robustkit.randomness import Streams
from robustkit.statistics import paired_difference, wilson
from robustkit.threat_models import LpBall, ThreatModel
from robustkit.training import SGD, OneCycle, Runtime, Selection, Trainer
from robustkit.training.losses import Loss, PGDTraining, cross_entropy
from tests.benchmarks.keeping import folder, kept

TITLE = "RiFT: which weights may be fine-tuned"
THREAT = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
RUNTIME = Runtime(device="cpu", channels_last=True)
Bits = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything; the defaults are the benchmark's."""

    seeds: int = 3
    train: int = 16_000
    held_out: int = 1000
    epochs: int = 6
    tuning: int = 3
    clean: int = 10_000
    robust: int = 1000
    steps: int = 20
    samples: int = 512


@dataclass(frozen=True)
class Facts:
    """What a model is."""

    name: str
    module: str = ""
    mrc: str = ""
    moved: str = ""
    alpha: str = ""


@dataclass(frozen=True)
class Row:
    """One model of one seed: what it is, and which test images it has right."""

    facts: Facts
    right: Bits
    stands: Bits

    def packed(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "facts": dataclasses.asdict(self.facts),
            "right": [len(self.right), np.packbits(self.right).tobytes().hex()],
            "stands": [len(self.stands), np.packbits(self.stands).tobytes().hex()],
        }

    @classmethod
    def unpacked(cls, row: dict[str, Any]) -> "Row":
        """What `packed` gave."""
        bits = (
            np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=n).astype(bool)
            for n, text in (row["right"], row["stands"])
        )
        return cls(Facts(**row["facts"]), *bits)


def run(size: Size | None = None) -> dict[str, Any]:
    """Every model of every seed; the rows hold all seeds together, `seeds` each alone."""
    size = size or Size()
    found = [kept_seed(seed, size) for seed in range(size.seeds)]
    return {
        "rows": [summary(same, [rows[1] for rows in found]) for same in zip(*found, strict=True)],
        "seeds": [
            [{"seed": seed, **summary([row], [rows[1]])} for row in rows]
            for seed, rows in enumerate(found)
        ],
        "setting": (
            f"residual network of 3 blocks, width 8; {size.train:,} training images, "
            f"{size.held_out:,} of them held out; {size.epochs} epochs of PGD-2 training, "
            f"{size.tuning} of fine-tuning at rate 0.1 (all together: 0.01); {size.clean:,} clean "
            f"and {size.robust:,} robust test images, {size.steps} steps per attack; seeds 0 to "
            f"{size.seeds - 1}"
        ),
    }


def kept_seed(seed: int, size: Size) -> list[Row]:
    """One seed, measured only if nobody has done so before."""
    depends_on = {**dataclasses.asdict(dataclasses.replace(size, seeds=1)), "seed": seed}
    with folder() as place:
        rows = kept(
            place, "rift", depends_on, lambda: [row.packed() for row in one_seed(seed, size)]
        )
    return [Row.unpacked(row) for row in rows]


def one_seed(seed: int, size: Size) -> list[Row]:
    """The standard model, the base, and what was made of it."""
    train = data.load("fashion-mnist", split="train", n=size.train, select="stratified", seed=seed)
    test = data.load("fashion-mnist", n=size.clean)
    standard = trained(cross_entropy, train, seed, size)
    base = trained(PGDTraining(threat=THREAT, steps=2, step_size=0.75), train, seed, size)
    rows = [
        measured("standard training", standard, test, size),
        measured("base: PGD training", base, test, size),
    ]
    tuner = dataclasses.replace(
        RiFT.published(epochs=size.tuning, lr=0.1), seed=seed, runtime=RUNTIME
    )
    gentle = dataclasses.replace(tuner, optimizer=SGD(lr=0.01))
    chosen = tuned(base, train, (), tuner, size)
    ranking = chosen.report.criticality
    (stem,) = (one.module for one in ranking if one.stem)
    last = [one.module for one in ranking if not one.stem][-1]
    arms = {
        "chosen: lowest MRC": chosen,
        "stem": tuned(base, train, (stem,), tuner, size),
        "highest MRC": tuned(base, train, (last,), tuner, size),
        "all": tuned(base, train, tuple(one.module for one in ranking), gentle, size),
    }
    mrc = {one.module: f"{one.mrc:.2f}" for one in ranking}
    for name, arm in arms.items():
        report = arm.report
        module = report.modules[0] if len(report.modules) == 1 else "all"
        moved = f"{max(report.displacement.values()):.2f}"
        end = measured(name, arm.at(1.0), test, size)
        known = {0.0: rows[1], 1.0: end}
        place = known.get(report.alpha) or measured(name, arm.model, test, size)
        for row, alpha in ((end, "1"), (place, f"held out: {report.alpha:g}")):
            facts = Facts(name, module, mrc.get(module, ""), moved, alpha)
            rows.append(Row(facts, row.right, row.stands))
    learnt, _ = Selection(n=size.held_out).split(train, seed)
    rows.append(measured("batch norm alone", renormalised(base, learnt), test, size))
    drifting = copy.deepcopy(base)
    (module,) = chosen.report.modules
    weight = drifting.get_submodule(module).get_parameter("weight")
    tuner.fit(drifting, learnt, parameters=[weight])
    row = measured("chosen, batch norm in training mode", drifting, test, size)
    facts = dataclasses.replace(row.facts, module=module, mrc=mrc[module], alpha="1")
    rows.append(Row(facts, row.right, row.stands))
    return rows


def trained(loss: Loss, train: LabelledImages, seed: int, size: Size) -> nn.Module:
    """A model that has not seen the images RiFT will hold out."""
    model = ResNet(BasicBlock, (1, 1, 1), classes=10, channels=1, width=8, seed=seed)
    Trainer(
        epochs=size.epochs,
        batch_size=128,
        optimizer=SGD(lr=0.1),
        schedule=OneCycle(),
        selection=Selection(n=size.held_out, every=size.epochs),
        seed=seed,
        runtime=RUNTIME,
    ).fit(model, train, loss)
    return model.eval()


def tuned(
    base: nn.Module, train: LabelledImages, modules: tuple[str, ...], tuner: Trainer, size: Size
) -> Tuned:
    """RiFT with its own choice or with named modules, whose ranking nobody needs again."""
    rift = RiFT(
        modules=modules,
        held_out=size.held_out,
        samples=64 if modules else size.samples,
        steps=1 if modules else 10,
        alphas=(0.33, 0.67, 1.0),
        max_doubt=max(0.01, 5 / size.held_out),
    )
    streams = Streams.of(seed=tuner.seed, ids=train.ids, purpose="rift")
    return rift.tune(base, train, THREAT, trainer=tuner, streams=streams)


def renormalised(base: nn.Module, learnt: LabelledImages) -> nn.Module:
    """The base with batch-norm statistics from one tour of clean batches, its weights as before."""
    model = copy.deepcopy(base).train()
    with torch.no_grad():
        for rows in torch.split(torch.arange(min(len(learnt), 50 * 128)), 128):
            model(learnt.inputs(rows))
    return model.eval()


def measured(name: str, model: nn.Module, test: LabelledImages, size: Size) -> Row:
    """Which test images a model has right, and which it keeps right under attack."""
    # A copy: the memory layout must not reach the model that is fine-tuned next.
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        right = [
            model(test.inputs(rows)).argmax(1) == test.labels[rows]
            for rows in torch.split(torch.arange(len(test)), 500)
        ]
    attacks: list[EvasionAttack[Any]] = [
        APGD(steps=size.steps),
        PGD(steps=size.steps, loss="margin"),
    ]
    report = evaluate(model, test.first(size.robust), THREAT, attacks=attacks)
    if report.violations:
        raise RuntimeError(f"{name}: {report.violations} violations.")
    stands = np.array([example.status == "robust" for example in report.examples])
    return Row(Facts(name), torch.cat(right).numpy(), stands)


def summary(rows: Sequence[Row], bases: Sequence[Row]) -> dict[str, Any]:
    """The same model of several seeds as one row of the table."""
    first = rows[0]
    own = any(row is base for row, base in zip(rows, bases, strict=True))
    return {
        "model": first.facts.name,
        "module": listed([row.facts.module for row in rows]),
        "MRC": listed([row.facts.mrc for row in rows]),
        "moved": listed([row.facts.moved for row in rows]),
        "alpha": listed([row.facts.alpha for row in rows]),
        "clean, %": share([row.right for row in rows]),
        "robust, %": share([row.stands for row in rows]),
        "clean gain": ""
        if own
        else gain([row.right for row in rows], [base.right for base in bases]),
        "robust gain": ""
        if own
        else gain([row.stands for row in rows], [base.stands for base in bases]),
    }


def listed(words: Sequence[str]) -> str:
    """The words of all seeds, once where they agree."""
    distinct = list(dict.fromkeys(words))
    if len(distinct) == 1:
        return distinct[0]
    head, colon, _ = words[0].partition(": ")
    tails = [word.partition(": ")[2] if colon else word for word in words]
    return f"{head}{colon}{', '.join(tails)}" if colon else ", ".join(tails)


def share(bits: Sequence[Bits]) -> str:
    """A share of all (image, seed) pairs with Wilson's interval."""
    whole = np.concatenate(list(bits))
    found = wilson(int(whole.sum()), len(whole))
    return f"{100 * found.value:.2f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def gain(mine: Sequence[Bits], base: Sequence[Bits]) -> str:
    """A difference with Tango's interval over all pairs, and that of each seed."""
    found = paired_difference(np.concatenate(list(mine)), np.concatenate(list(base)))
    each = [
        100 * (float(own.mean()) - float(other.mean()))
        for own, other in zip(mine, base, strict=True)
    ]
    seeds = f" ({', '.join(f'{value:+.2f}' for value in each)})" if len(each) > 1 else ""
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.value:+.2f} [{low:+.2f}, {high:+.2f}]{seeds}"
