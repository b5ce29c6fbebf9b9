"""The scenario of unlearnable data: what can be learnt from a published set after all."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.evaluation.conditions import resumable
from robustkit.evaluation.locks import lock
from robustkit.evaluation.records import Records, held_already, writing
from robustkit.evaluation.subjects import named
from robustkit.evaluation.unlearnable_flags import controls, flags
from robustkit.evaluation.unlearnable_material import distortion_of, material_of
from robustkit.files import write_atomically
from robustkit.report import (
    About,
    DataFacts,
    Headline,
    ModelFacts,
    ThreatFacts,
    UnlearnableReport,
    current_environment,
    write,
    write_html,
)
from robustkit.report.evasion import Skipped
from robustkit.report.unlearnable import Publication
from robustkit.threat_models import Convolutions, ThreatModel, load
from robustkit.training import SGD, OneCycle, Trainer
from robustkit.training.describing import describe
from robustkit.training.publishing import prepare
from robustkit.unlearnable.audit import PLAIN, Audit, Findings, Material
from robustkit.unlearnable.examining import Progress, Silent
from robustkit.unlearnable.keyed import Publisher
from robustkit.unlearnable.learners import BATTERY, KeyLeak, Learner, build
from robustkit.unlearnable.outcomes import Kept
from robustkit.unlearnable.summary import summary

# For small images on a CPU; the gradient's length as CUDA's authors bound it.
TRAINER = Trainer(epochs=10, optimizer=SGD(lr=0.1, nesterov=True), schedule=OneCycle(), clip=5.0)
METRIC = "best_learner_accuracy"

Network = Callable[[int], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a published set came about, as far as it is known.

    Attributes:
        method: By its registered name.
        options: Of the method, without any key.
        threat: Under which the publisher worked.
        publish: Changes other images by their labels as the published ones were; only who has the
            key can give it.
    """

    method: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    threat: ThreatModel | None = None
    publish: Publisher | None = None


def evaluate_unlearnable(
    published: LabelledImages,
    originals: LabelledImages,
    test: LabelledImages,
    *,
    model: str | Network = "cnn",
    arguments: Mapping[str, Any] | None = None,
    learners: Sequence[str] | Mapping[str, Learner] | None = None,
    origin: Origin | None = None,
    trainer: Trainer = TRAINER,
    shares: Sequence[float] = (),
    seed: int = 0,
    seeds: int = 1,
    out: Path | None = None,
    resume: bool = False,
    about: About | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> UnlearnableReport:
    """Train a battery of learners on a published set and report what the best one learns.

    Every learner is trained on the published images and, beside them, on their originals; all of
    them are tested on the same clean images. The verdict is the accuracy of the best learner at its
    best epoch, both chosen on one half of the test images and measured on the other: what the set
    protects is at most what that leaves.

    Args:
        published: The training images as they were published.
        originals: What they were made from: the same ids, in any order, and possibly more.
        test: Clean test images.
        model: The learners' architecture, or what makes a new network from a seed.
        arguments: Of the architecture, such as `mean` and `std`.
        learners: Words or learners by name; by default `BATTERY`. Plain training is added.
        origin: How the published set came about.
        trainer: How all learners train, but for what is their own.
        shares: Of published images in sets that only in part are, each in (0, 1]; plain training on
            them is compared with that on their clean images alone.
        seed: Of all randomness.
        seeds: How often every training is repeated.
        out: A folder for finished trainings, report and page; None writes nothing.
        resume: Go on with the audit in `out`.
        about: What the report says about the published set's origin.
        command: The command line the report shows.
        progress: Who is told how it goes on.

    Raises:
        BadInput: The sets, the architecture and the settings do not fit each other.
        CannotWrite: The disk is full; what is finished is kept.
        DeviceLost: Memory ran out, or the device failed; likewise.

    Reference:
        Sadasivan, Soltanolkotabi, Feizi: CUDA: convolution-based unlearnable datasets. CVPR 2023,
        whose controls are those with the key, one change for all, and sets published in part.

    Differs from the reference:
        All learners are tried and the best one counts, each beside its own reference on clean data.
    """
    origin, seed_range = origin or Origin(), range(seeds)
    if not len(seed_range) or not 0 <= seed < 2**32:
        raise BadInput(f"{seeds} seeds from {seed} on: give at least 1, and a seed in [0, 2**32).")
    if any(not 0 < share <= 1 for share in shares):
        given = ", ".join(f"{100 * share:g} %" for share in shares)
        raise BadInput(f"The published fractions are {given}; each must lie above 0 and up to 100.")
    material = material_of(published, originals, test, origin.publish)
    wanted = battery(origin.threat) if learners is None else learners
    chosen, skipped = _learners(wanted, material.published, by_name=learners is not None)
    audit = Audit(
        learners=chosen,
        network=_networks(model, arguments or {}, material.published),
        trainer=trainer,
        shares=shares,
        seed=seed,
        seeds=seeds,
        kept=Kept(out),
        progress=progress or Silent(),
    )
    with _folder(out, _identity(audit, material), resume=resume):
        with resumable(kept=out is not None):
            findings = audit.run(material)
        report = _report(
            audit,
            material,
            findings,
            origin,
            named(audit.network(seed), model if isinstance(model, str) else None),
            tuple(skipped),
            about or About(),
            command,
        )
        if out is not None:
            write_html(report, out / "report.html")
            # Last: whoever finds a report finds all that belongs to it.
            write(report, out)
    return report


def battery(threat: ThreatModel | None) -> list[str]:
    """The learners that are tried by themselves; they know the method, and so a filter's size."""
    allowed = None if threat is None else threat.perturbation
    if not isinstance(allowed, Convolutions) or allowed.kernel == KeyLeak.side:
        return list(BATTERY)
    return [f"{name}:{allowed.kernel}" if name == "key-leak" else name for name in BATTERY]


def _learners(
    given: Sequence[str] | Mapping[str, Learner], data: LabelledImages, *, by_name: bool
) -> tuple[dict[str, Learner], list[Skipped]]:
    """Those that can be tried, plain training first; and those of the battery that cannot.

    Raises:
        BadInput: One was named that cannot.
    """
    listed = given if isinstance(given, Mapping) else {name: build(name) for name in given}
    wanted = {PLAIN: build(PLAIN), **listed}
    reasons = {name: learner.why_not(data) for name, learner in wanted.items()}
    left = [
        Skipped(name=name, reason=reason) for name, reason in reasons.items() if reason is not None
    ]
    if by_name and left:
        raise BadInput(f"The learner {left[0].name!r} cannot be tried: {left[0].reason}.")
    return {name: one for name, one in wanted.items() if reasons[name] is None}, left


def _networks(model: str | Network, arguments: Mapping[str, Any], data: LabelledImages) -> Network:
    """What makes a new network from a seed."""
    if not isinstance(model, str):
        return model
    if not models.needs_weights(model):
        raise BadInput(
            f"{model!r} has learnt already, and the learners of an audit begin anew. Give an "
            "architecture such as cnn or resnet-18; a trained model is a learner's features: "
            "--learners pretrained-features:DIR."
        )
    return lambda seed: prepare(model, arguments, data, seed=seed)[0]


def _identity(audit: Audit, material: Material) -> dict[str, Any]:
    """What makes two audits the same audit."""
    trainer = {
        key: value
        for key, value in describe(audit.trainer).items()
        if key not in ("out", "resume", "progress", "runtime")
    }
    content = {
        "scenario": "unlearnable",
        "published data": material.published.sha256,
        "originals": material.originals.sha256,
        "test images": material.test.sha256,
        "key": [images.sha256 for images in material.keyed.values()],
        "learners": {name: describe(learner) for name, learner in audit.learners.items()},
        "model": models.fingerprint(audit.network(audit.seed)),
        "training": {**trainer, "dtype": audit.trainer.runtime.dtype},
        "fractions": list(audit.shares),
        "seed": audit.seed,
        "seeds": audit.seeds,
    }
    # Through JSON and back: as it is compared with what a file says.
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


@contextlib.contextmanager
def _folder(out: Path | None, identity: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
    """Hold the folder of an audit, so that no other process works in it.

    Raises:
        BadInput: It holds something else, or this audit and `resume` was not asked for, or another
            process works in it.
    """
    if out is None:
        yield
        return
    header = out / "run.json"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        Records.check(out, identity)
        if header.exists() and not resume:
            raise held_already(out)
        if not header.exists():
            write_atomically(header, json.dumps(identity, indent=1))
        file = header.open("r+b")
    with file:
        if lock(file) is False:
            raise BadInput(
                f"Another process is working in {str(out)!r}. Wait for it, or choose another --out."
            )
        yield


def _report(
    audit: Audit,
    material: Material,
    findings: Findings,
    origin: Origin,
    model: str,
    skipped: tuple[Skipped, ...],
    about: About,
    command: str | None,
) -> UnlearnableReport:
    found = summary(findings, audit.learners, material.test.classes)
    change = distortion_of(material)
    changed = change.n / len(material.published)
    scored = found.choice.scored
    network = audit.network(audit.seed)
    with audit.trainer.runtime.open() as session:
        environment = current_environment(
            session.device, dtype=torch.float32, width=None, reproducible=True
        )
    n = len(material.test) - found.best.n
    return UnlearnableReport(
        command=command,
        threat=ThreatFacts.of(origin.threat or load("unlearnable")),
        model=ModelFacts(
            spec=model,
            sha256=models.fingerprint(network),
            parameters=models.parameter_count(network),
            classes=material.test.classes,
        ),
        data=DataFacts.of(material.test),
        about=about,
        seed=audit.seed,
        environment=environment,
        verdict=replace(Headline.accuracy(METRIC, scored, n), worse="higher"),
        controls=controls(findings, found),
        flags=flags(findings, found, origin.options, changed, material),
        cost=found.cost,
        diagnostics={
            "choice": "learner and epoch on one half of the test images, verdict on the other",
            "interval": "Wilson, 95 %, over the test images; trainings that differ in the seed are "
            "averaged, and what another seed would change is not in it",
            "accuracy by chance": 1 / material.test.classes,
            "trainings": sum(map(len, findings.outcomes.values())),
        },
        publication=Publication(
            data=DataFacts.of(material.published),
            originals=material.originals.spec,
            method=origin.method,
            options=dict(origin.options),
            changed=changed,
        ),
        distortion=change,
        best=found.best,
        learners=found.learners,
        skipped=skipped,
        partial=found.partial,
        epochs=audit.trainer.epochs,
        seeds=audit.seeds,
    )
