"""The scenario of common corruptions: nobody attacks, and the images suffer all the same."""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustkit import models
from robustkit.corruptions import NAMES, parameter_set
from robustkit.corruptions.parameters import SIDES
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.evaluation.conditions import controlled, resumable
from robustkit.evaluation.corruptions_pictures import pictures
from robustkit.evaluation.corruptions_summary import Outcome, outcome
from robustkit.evaluation.corruptions_survey import Survey
from robustkit.evaluation.guards import Inspection, inspect
from robustkit.evaluation.progress import Progress, Silent
from robustkit.evaluation.records import Records
from robustkit.evaluation.subjects import as_device, as_images, as_model, as_width, named
from robustkit.report import (
    About,
    Control,
    CorruptionsReport,
    DataFacts,
    Flag,
    Headline,
    ModelFacts,
    ThreatFacts,
    current_environment,
    write,
    write_html,
)
from robustkit.report.parts import Severity
from robustkit.threat_models import LpBall, load


def evaluate_corruptions(
    model: nn.Module | str = "builtin:cifar10-resnet18",
    data: LabelledImages | tuple[Tensor, Tensor] | str = "samples:cifar10",
    *,
    reference: nn.Module | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    out: Path | None = None,
    resume: bool = False,
    about: About | None = None,
    model_name: str | None = None,
    reference_name: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> CorruptionsReport:
    """Ask a model about every image under 15 common corruptions at 5 severities.

    Args:
        model: A classifier of (N, C, H, W) images in [0, 1], or the words that name one.
        data: Labelled images, an (inputs, labels) pair, or the words that name a set.
        reference: A model whose errors on the same corrupted images are the unit of the mean
            corruption error (mCE); None for no such number.
        seed: Of all randomness. The same seed gives the same corrupted images, whatever the order
            of the examples and however often the run was interrupted.
        batch_size: Rows in which the models are run; None for the largest that fits.
        device: Where to run; None for where the model is, and for a named model a GPU if there is
            one.
        out: A folder for records, report and page; None writes nothing.
        resume: Go on with the run in `out`.
        about: What the report says about the model's origin.
        model_name: What the report calls the model; by default its words or its class.
        reference_name: What it calls the reference.
        command: The command line the report shows.
        progress: Who is told how the run goes on.

    Returns:
        The report; its `mean_accuracy` is the mean over the whole grid, with Wilson's interval over
        the images.

    Raises:
        BadInput: Model, data and reference do not fit each other.
        CannotWrite: The disk is full; the run can be resumed.
        DeviceLost: Memory ran out, or the device failed; likewise.

    Reference:
        Hendrycks, Dietterich: Benchmarking neural network robustness to common corruptions and
        perturbations. ICLR 2019.

    Differs from the reference:
        The corrupted images are made from the images given, not read from published files (see
        `robustkit.corruptions.corrupt` for what differs in them), and the reference model of the
        mCE is whichever is named: the paper's is an AlexNet trained on ImageNet.
    """
    if not -(2**63) <= seed < 2**63:
        raise BadInput(f"The seed {seed} is too large; give one of 64 bits.")
    images = as_images(data, seed)
    target = as_device(model, device)
    facts, subject = _facts(model, model_name, target)
    unit_facts, unit = (
        (None, None) if reference is None else _facts(reference, reference_name, target)
    )
    with controlled(subject, target, seed):
        found = _inspected(subject, images, target, seed, as_width(out, batch_size))
        facts = replace(facts, classes=found.classes)
        identity = _identity(facts, unit_facts, images, seed, found.width, target)
        records = Records.begin(out, identity, resume=resume)
        survey = Survey(
            data=images,
            seed=seed,
            width=found.width,
            device=target,
            records=records,
            progress=progress or Silent(),
        )
        with contextlib.closing(records), resumable(kept=out is not None):
            survey.clean(subject)
            survey.corrupted(subject)
            if unit is not None and unit_facts is not None:
                unit_facts = _ask_reference(survey, unit, unit_facts)
    result = outcome(images, records, unit_facts)
    report = _report(facts, images, found, result, seed, target, about, command)
    if out is not None:
        write_html(report, out / "report.html", corrupted=pictures(images, records, seed))
        # Last: whoever finds a report finds all that belongs to it.
        write(report, out)
    return report


def _facts(
    model: nn.Module | str, name: str | None, device: torch.device
) -> tuple[ModelFacts, nn.Module]:
    subject = as_model(model, device)
    facts = ModelFacts(
        spec=named(model, name),
        sha256=models.fingerprint(subject),
        parameters=models.parameter_count(subject),
        classes=0,
    )
    return facts, subject


def _inspected(
    model: nn.Module, data: LabelledImages, device: torch.device, seed: int, width: int | None
) -> Inspection:
    """The usual checks, for an adversary that sees labels and changes nothing."""
    nobody = replace(load("corruptions"), perturbation=LpBall(norm="linf", radius=0.0))
    return inspect(model, data, nobody, device=device, seed=seed, width=width)


def _ask_reference(survey: Survey, model: nn.Module, facts: ModelFacts) -> ModelFacts:
    """Ask the reference model too, at the width of the other."""
    with controlled(model, survey.device, survey.seed):
        found = _inspected(model, survey.data, survey.device, survey.seed, survey.width)
        if found.width < survey.width:
            raise BadInput(
                f"The reference model {facts.spec!r} fits into memory with {found.width} rows at "
                f"most, and the run has {survey.width}. Give --batch-size {found.width}."
            )
        survey.reference(model)
    return replace(facts, classes=found.classes)


def _identity(
    model: ModelFacts,
    reference: ModelFacts | None,
    data: LabelledImages,
    seed: int,
    width: int,
    device: torch.device,
) -> Mapping[str, Any]:
    """What makes two runs the same run."""
    return {
        "scenario": "corruptions",
        "model": model.sha256,
        "reference model": None if reference is None else reference.sha256,
        "data": hashlib.sha256(f"{data.sha256} {data.ids.tolist()}".encode()).hexdigest(),
        "n": len(data),
        "shape": list(data.shape),
        "corruptions": list(NAMES),
        "seed": seed,
        "batch size": width,
        "device": device.type,
    }


def _report(
    model: ModelFacts,
    data: LabelledImages,
    found: Inspection,
    result: Outcome,
    seed: int,
    device: torch.device,
    about: About | None,
    command: str | None,
) -> CorruptionsReport:
    mean = result.mean
    return CorruptionsReport(
        command=command,
        threat=ThreatFacts.of(load("corruptions")),
        model=model,
        data=DataFacts.of(data),
        about=about or About(),
        seed=seed,
        environment=current_environment(
            device, dtype=torch.float32, width=found.width, reproducible=found.reproducible
        ),
        verdict=Headline.accuracy("mean_accuracy", mean, len(data)),
        controls=(_control(result),),
        flags=(*found.flags, *_flags(data, found, result)),
        cost=result.cost,
        diagnostics={
            "guards": {"forward": found.passes.forward, "backward": found.passes.backward},
            "control and reference": {
                "forward": result.other.forward,
                "rows_run": result.other.rows_run,
                "seconds": result.other.seconds,
            },
            "interval": "Wilson, 95 %, over the images: each counts once, with the share of its "
            "75 answers that are right",
        },
        clean_accuracy=result.clean,
        mean_accuracy=mean,
        parameters=parameter_set(*data.shape[1:]),
        grid=result.grid,
        mce=result.mce,
        examples=result.examples,
    )


def _control(result: Outcome) -> Control:
    same = result.disagreements == 0
    return Control(
        name="severity 0",
        metric="accuracy",
        value=result.control.value,
        low=result.control.low,
        high=result.control.high,
        message="Every answer is that to the clean image, as it must be."
        if same
        else f"{result.disagreements} answers differ from those to the clean images.",
    )


def _flags(data: LabelledImages, found: Inspection, result: Outcome) -> list[Flag]:
    flags = []
    if result.disagreements:
        text = (
            f"Without any corruption {result.disagreements} answers differ from those to the clean "
            "images."
        )
        random = not found.reproducible or any(flag.id == "F1" for flag in found.flags)
        severity: Severity = "warn" if random else "void"
        flags.append(Flag(id="control-failed", severity=severity, message=text))
    text = (
        "The corruptions were computed from the images given, and frost without the photographs of "
        "the published sets: compare the number with others of this kind, not with published ones."
    )
    flags.append(Flag(id="computed-corruptions", severity="info", message=text))
    numbers = parameter_set(*data.shape[1:])
    if set(data.shape[1:]) != {SIDES[numbers]}:
        sides = " x ".join(str(side) for side in data.shape[1:])
        text = (
            f"The images have {sides} pixels; the strengths are those published for "
            f"{SIDES[numbers]} x {SIDES[numbers]}."
        )
        flags.append(Flag(id="other-size", severity="info", message=text))
    return flags
