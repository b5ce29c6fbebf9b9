"""The main job: how many examples stand against a plan of attacks under a threat model."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustkit import models, registry, threat_models
from robustkit.attacks import EvasionAttack, build, describe, name_of
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit
from robustkit.evaluation import plans
from robustkit.evaluation.artifacts import write_artifacts
from robustkit.evaluation.conditions import controlled, resumable
from robustkit.evaluation.engine import Engine, Progress, Silent
from robustkit.evaluation.guards import inspect
from robustkit.evaluation.labels import label_curves
from robustkit.evaluation.plans import Line, Plan, split
from robustkit.evaluation.records import Records
from robustkit.evaluation.reporting import report_of
from robustkit.evaluation.subjects import as_device, as_images, as_model, as_width
from robustkit.evaluation.summary import Standing, tally
from robustkit.report import About, EvasionReport, ModelFacts, Skipped
from robustkit.threat_models import Stage, ThreatModel


def evaluate(
    model: nn.Module | str = "builtin:cifar10-resnet18",
    data: LabelledImages | tuple[Tensor, Tensor] | str = "samples:cifar10",
    threat: ThreatModel | str = "linf",
    *,
    attacks: Sequence[EvasionAttack[Any] | str] | None = None,
    plan: str = "standard",
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    out: Path | None = None,
    resume: bool = False,
    about: About | None = None,
    model_name: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> EvasionReport:
    """Attack a model on every example and report how many stand, with the proof.

    The model is put in eval mode with frozen parameters and given back as it was. Each attack gets
    the examples that still stand. Whatever an attack returns is judged on a fresh float32 pass; a
    point outside the perturbation set counts as survived and is reported as a violation.

    Args:
        model: A classifier of (N, C, H, W) images in [0, 1], or the words that name one.
        data: Labelled images, an (inputs, labels) pair, or the words that name a set.
        threat: The adversary, or its name, or the path of a TOML file.
        attacks: What to run, in order; None runs the plan.
        plan: `fast`, `standard` or `thorough`: how much effort to spend; see `robustkit show`.
        seed: Of all randomness. The same seed gives the same verdicts, whatever the order of the
            examples and however often the run was interrupted.
        batch_size: Rows in which the model is run; None for the largest that fits.
        device: Where to run; None for where the model is, and for a named model a GPU if there is
            one.
        out: A folder for records, report, page and broken examples; None writes nothing.
        resume: Go on with the run in `out`.
        about: What the report says about the model's origin.
        model_name: What the report calls the model; by default its words or its class.
        command: The command line the report shows.
        progress: Who is told how the run goes on.

    Returns:
        The report; its `robust_accuracy` is the worst case over the attacks, example by example.

    Raises:
        BadInput: Model, data, threat and attacks do not fit each other; `DoesNotFit` for an attack.
        CannotWrite: The disk is full; the run can be resumed.
        DeviceLost: Memory ran out, or the device failed; likewise.

    Example:
        >>> import torch
        >>> from robustkit.attacks import FGSM
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> images, labels = torch.full((4, 3, 2, 2), 0.5), torch.tensor([0, 1, 2, 0])
        >>> report = evaluate(classifier, (images, labels), "linf", attacks=[FGSM()])
        >>> report.robust_accuracy.value <= report.clean_accuracy.value
        True
    """
    if not -(2**63) <= seed < 2**63:
        raise BadInput(f"The seed {seed} is too large; give one of 64 bits.")
    if isinstance(threat, str):
        threat = threat_models.load(threat)
    check_threat(threat)
    lines, skipped = _lines(attacks, plan, threat)
    images = as_images(data, seed)
    target = as_device(model, device)
    spec = model_name or (model if isinstance(model, str) else type(model).__qualname__)
    model = as_model(model, target)
    with controlled(model, target, seed):
        found = inspect(
            model, images, threat, device=target, seed=seed, width=as_width(out, batch_size)
        )
        facts = ModelFacts(
            spec=spec,
            sha256=models.fingerprint(model),
            parameters=models.parameter_count(model),
            classes=found.classes,
        )
        identity = _identity(facts, images, threat, lines, seed, found.width, target)
        records = Records.begin(out, identity, resume=resume)
        engine = Engine(
            model=model,
            data=images,
            threat=threat,
            seed=seed,
            width=found.width,
            device=target,
            records=records,
            progress=progress or Silent(),
        )
        with contextlib.closing(records), resumable(kept=out is not None):
            _run(engine, lines)
    result = tally(images, records, lines)
    right = [row for row, e in enumerate(result.examples) if e.status != "misclassified"]
    # The first attack is the one that was given all examples.
    curves = dataclasses.replace(
        label_curves(records.stage(0), right, threat), passes=result.over_passes
    )
    report = report_of(
        facts, images, threat, lines, skipped, found, result, curves, seed, target, about, command
    )
    if out is not None:
        write_artifacts(out, report, images, records)
    return report


def check_threat(threat: ThreatModel) -> None:
    """Refuse a threat model that is not about changed inputs at inference.

    Raises:
        BadInput: It is about another stage, or changes no inputs.
    """
    if threat.stage is not Stage.INFERENCE or threat.perturbation is None:
        raise BadInput(
            f"The threat model {threat.name!r} is about {threat.stage.value} and "
            f"{'no' if threat.perturbation is None else 'some'} changes of inputs. An evaluation "
            "of attacks needs the stage inference and a perturbation set."
        )


def _lines(
    attacks: Sequence[EvasionAttack[Any] | str] | None, plan: str, threat: ThreatModel
) -> tuple[Plan, list[Skipped]]:
    """The attacks to run, and why the others do not."""
    left_out: list[tuple[str, str]] = []
    lines: Plan
    if attacks is None:
        lines, left_out = split(plans.plan(plan, threat), threat)
        if not lines:
            reasons = "; ".join(dict.fromkeys(f"{name}: {reason}" for name, reason in left_out))
            raise DoesNotFit(
                f"No attack of the plan {plan!r} fits the threat model {threat.name!r} "
                f"({reasons}). "
                "Name one that does, for example --attacks foolbox:HopSkipJumpAttack."
            )
    else:
        made = [build(attack) if isinstance(attack, str) else attack for attack in attacks]
        if not made:
            raise BadInput("The list of attacks is empty. Name at least one, or leave it out.")
        for attack in made:
            attack.check(threat)
        lines = [Line(name=name_of(attack), attack=attack) for attack in made]
    ran = {line.name for line in lines}
    left_out = [(name, reason) for name, reason in dict.fromkeys(left_out) if name not in ran]
    known = {name.partition(":")[0] for name in (*ran, *(name for name, _ in left_out))}
    others = [(name, "not in plan") for name in registry.entries("attacks") if name not in known]
    return lines, [Skipped(name=name, reason=reason) for name, reason in (*left_out, *others)]


def _identity(
    model: ModelFacts,
    data: LabelledImages,
    threat: ThreatModel,
    lines: Plan,
    seed: int,
    width: int,
    device: torch.device,
) -> Mapping[str, Any]:
    """What makes two runs the same run."""
    return {
        "model": model.sha256,
        "data": hashlib.sha256(f"{data.sha256} {data.ids.tolist()}".encode()).hexdigest(),
        "n": len(data),
        "shape": list(data.shape),
        "threat": repr(threat),
        "attacks": [
            {
                "name": line.name,
                "options": dict(describe(line.attack)),
                "lead left": line.lead_left,
                "through": line.through,
            }
            for line in lines
        ],
        "seed": seed,
        "batch size": width,
        "device": device.type,
    }


def _run(engine: Engine, lines: Plan) -> None:
    engine.clean_pass(lines[0])
    standing = Standing(engine.data, engine.records)
    for stage, line in enumerate(lines):
        rows = standing.left(line.lead_left)
        if len(rows):
            engine.attack(stage, line, rows)
        standing.take(stage, engine.records.stage(stage))
