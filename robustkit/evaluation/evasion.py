"""The main job: how many examples stand against a plan of attacks under a threat model."""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustkit import models, registry, threat_models
from robustkit.attacks import FMN, EvasionAttack, build, describe, name_of
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit
from robustkit.evaluation import adaptive, plans, shards
from robustkit.evaluation.artifacts import write_artifacts
from robustkit.evaluation.clean import clean_pass
from robustkit.evaluation.conditions import controlled, resumable
from robustkit.evaluation.draws import Drawn
from robustkit.evaluation.engine import Engine
from robustkit.evaluation.flags_diagnosis import diagnose
from robustkit.evaluation.guards import inspect
from robustkit.evaluation.labels import label_curves
from robustkit.evaluation.nearest import white_box
from robustkit.evaluation.plans import Line, Plan, split
from robustkit.evaluation.progress import Progress, Silent
from robustkit.evaluation.reporting import report_of
from robustkit.evaluation.shards import Share
from robustkit.evaluation.subjects import as_device, as_dtype, as_images, as_model, as_width
from robustkit.evaluation.summary import Standing, eps_curve, tally
from robustkit.report import About, EpsPoint, EvasionReport, Flag, ModelFacts, Skipped
from robustkit.threat_models import LpBall, Stage, ThreatModel

_NO_CURVE = Flag(
    id="no-eps-curve",
    severity="info",
    message="No curve over the radius: the model answers at random, and a change that is the "
    "smallest on one draw may do nothing on the next. Evaluate it at each radius.",
)


def evaluate(
    model: nn.Module | str = "builtin:cifar10-resnet18",
    data: LabelledImages | tuple[Tensor, Tensor] | str = "samples:cifar10",
    threat: ThreatModel | str = "linf",
    *,
    attacks: Sequence[EvasionAttack[Any] | str] | str | None = None,
    plan: str = "standard",
    eps_sweep: Sequence[float] = (),
    reference: str | None = None,
    reference_n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    share: Share | None = None,
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
        attacks: What to run, in order, or the name of one attack; None runs the plan.
        plan: `fast`, `standard` or `thorough`: how much effort to spend; see `robustkit show`.
        eps_sweep: Radii at which the report's curve gives the robust accuracy, from the smallest
            changes found. Where no attack of the plan looks for those, FMN does after it.
        reference: An attack that is run on what stands at the end, apart from the cost: what it
            still breaks counts as broken and is said; `autoattack` for its standard version.
        reference_n: Run the reference on so many of them only, chosen at random.
        seed: Of all randomness. The same seed gives the same verdicts, whatever the order of the
            examples and however often the run was interrupted.
        batch_size: Rows in which the model is run; None for the largest that fits.
        device: Where to run; None for where the model is, and for a named model a GPU if there is
            one.
        dtype: `fp32` or `bf16`: in what the step-by-step attacks search. What they find in bf16
            they ask about again in fp32, and every verdict is in fp32. None for bf16 on a GPU that
            has it, else fp32.
        out: A folder for records, report, page and broken examples; None writes nothing.
        resume: Go on with the run in `out`.
        share: Attack the share of one of several processes that all do this with the same arguments
            and the same `out`; the last one reports. None for all examples.
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
        OthersAtWork: Only with `share`: this process has done its own, and another one will report.
        Unfinished: Only with `share`: another one was lost; the run can be resumed.

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
    attacks = [attacks] if isinstance(attacks, str) else attacks
    out = None if out is None else Path(out)
    if share is not None and out is None:
        raise BadInput("Several processes need a folder (out) in which they meet.")
    if reference_n is not None and (reference is None or reference_n < 1):
        raise BadInput(
            f"The reference is to be run on {reference_n} examples; name a reference and give at "
            "least 1."
        )
    lines, skipped = _lines(attacks, plan, threat)
    extra = _extra_lines(lines, threat, eps_sweep, reference)
    images = as_images(data, seed)
    target = as_device(model, device)
    spec = model_name or (model if isinstance(model, str) else type(model).__qualname__)
    model, precision = as_model(model, target), as_dtype(dtype, target)
    with controlled(model, target, seed), adaptive.stand_ins(model, target) as stand_ins:
        found = inspect(
            model, images, threat, device=target, seed=seed, width=as_width(out, batch_size)
        )
        lines, blind = adaptive.adapted(
            lines,
            model,
            tuple(stand_ins),
            threat,
            differentiable=found.differentiable,
            ends=attacks is None,
        )
        if eps_sweep and getattr(model, "stochastic", False):
            eps_sweep, extra = (), [line for line in extra if line.role != "distances"]
            found.flags.append(_NO_CURVE)
        lines = [*lines, *extra]
        others = [one for one in skipped if one.name not in {line.name for line in lines}]
        skipped = [*blind, *others]
        facts = ModelFacts(
            spec=spec,
            sha256=models.fingerprint(model),
            parameters=models.parameter_count(model),
            classes=found.classes,
        )
        identity = _identity(
            facts, images, threat, lines, reference_n, seed, found.width, target, precision
        )
        engine_of = partial(
            Engine,
            model=model,
            data=images,
            threat=threat,
            seed=seed,
            width=found.width,
            device=target,
            stand_ins=stand_ins,
            dtype=precision,
        )
        told = progress or Silent()
        if share is not None and out is not None:
            part = shards.begin(out, identity, share, len(images), resume=resume, progress=told)
            with contextlib.closing(part), resumable(kept=True):
                watched = shards.Watched(told, share, len(images))
                engine = engine_of(records=part, progress=watched)
                _run(engine, shards.shareable(lines), reference_n)
                shards.finish(out, part, share)
        # From here on this process is the only one: either it always was, or it was the last.
        records = shards.whole(out, identity, resume=resume or share is not None, progress=told)
        engine = engine_of(records=records, progress=told)
        with contextlib.closing(records), resumable(kept=out is not None):
            _run(engine, lines, reference_n)
            diagnosis = diagnose(
                engine,
                lines,
                _standing(engine, lines),
                found,
                folder=out,
            )
            right = _standing(engine, lines).right
            found_by = white_box(engine, right, differentiable=found.differentiable, folder=out)
    result = tally(images, records, lines, _standing(engine, lines))
    known = None if found_by is None else found_by.by_row()
    # The first attack is the one that was given all examples.
    curves = dataclasses.replace(
        label_curves(records.stage(0), right.tolist(), threat, known, slack=_slack(threat, images)),
        passes=result.over_passes,
        effort=result.effort,
        eps=_over_eps(result.distances, eps_sweep, threat, images),
    )
    report = report_of(
        facts,
        images,
        threat,
        lines,
        skipped,
        found,
        diagnosis,
        result,
        curves,
        found_by,
        seed,
        target,
        precision,
        about,
        command,
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
            "of attacks needs the stage inference and a perturbation set. For common corruptions "
            "use robustkit.evaluation.evaluate_corruptions."
        )


def _hint(threat: ThreatModel) -> str:
    """An attack of another package that fits where no own one does."""
    there = ("foolbox:HopSkipJumpAttack", "foolbox:PointwiseAttack")
    fitting = [name for name in there if build(name).why_not(threat) is None]
    if not fitting:
        return "Nor is an attack known that would; see robustkit list attacks."
    return f"Name one that does, for example --attacks {fitting[0]}."


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
                f"({reasons}). {_hint(threat)}"
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


def _extra_lines(
    lines: Plan, threat: ThreatModel, radii: Sequence[float], reference: str | None
) -> list[Line]:
    """What measures distances for a curve over the radius, and the reference."""
    extra = []
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise BadInput(
                f"The sweep has the radius {radius}; each must be a finite number, 0 or larger."
            )
    if radii:
        if not isinstance(threat.perturbation, LpBall):
            raise BadInput(
                f"The threat model {threat.name!r} has no radius to sweep. Leave the sweep out."
            )
        if not lines[0].attack.minimises:
            nearest = FMN()
            nearest.check(threat)
            extra.append(Line(name="fmn", attack=nearest, role="distances"))
    if reference is not None:
        attack = build(reference)
        attack.check(threat)
        extra.append(Line(name=name_of(attack), attack=attack, role="reference"))
    return extra


def _over_eps(
    distances: Tensor, radii: Sequence[float], threat: ThreatModel, images: LabelledImages
) -> tuple[EpsPoint, ...] | None:
    if not radii or not isinstance(threat.perturbation, LpBall):
        return None
    own = threat.perturbation.radius
    if math.isfinite(own):
        radii = [*radii, own]
    return eps_curve(distances, radii, _slack(threat, images))


def _slack(threat: ThreatModel, images: LabelledImages) -> float:
    """How far outside the radius rounding may take an image."""
    ball = threat.perturbation
    return ball.slack(images.inputs(torch.arange(1))) if isinstance(ball, LpBall) else 0.0


def _identity(
    model: ModelFacts,
    data: LabelledImages,
    threat: ThreatModel,
    lines: Plan,
    reference_n: int | None,
    seed: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Mapping[str, Any]:
    """What makes two runs the same run."""
    return {
        "robustkit version": version("robustkit"),
        "torch version": torch.__version__,
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
                "role": line.role,
            }
            for line in lines
        ],
        "reference n": reference_n,
        "seed": seed,
        "batch size": width,
        "device": device.type,
        "dtype": str(dtype),
    }


def _run(engine: Engine, lines: Plan, reference_n: int | None) -> None:
    clean_pass(engine, lines[0] if lines else None)
    standing = _standing(engine, lines)
    for stage, line in enumerate(lines):
        rows = standing.left(line)
        if line.role == "distances":
            rows = standing.right
        elif line.role == "reference" and reference_n is not None:
            rows = engine.sample(rows, reference_n)
        if len(rows):
            engine.attack(stage, line, rows)
        standing.take(stage, engine.records.stage(stage))


def _standing(engine: Engine, lines: Plan) -> Standing:
    """The examples as they stand after the clean pass."""
    kind = Standing if engine.jury is None else Drawn
    return kind(engine.data, engine.records, lines)
