"""`robustkit evaluate`."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from robustkit.cli import ranks
from robustkit.cli.auditing import Request, audited
from robustkit.cli.foreign import kept_apart
from robustkit.cli.settings import parts
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from robustkit.attacks import EvasionAttack
    from robustkit.threat_models import ThreatModel

VIOLATION = 3
CORRUPTIONS = "corruptions"
# What the presets of threats to data that others train on are called; they are audited.
UNLEARNABLE = "unlearnable"
MODEL = "builtin:cifar10-resnet18"
_DEFAULT = ParameterSource.DEFAULT
# What an audit takes of this command's options.
_OF_AUDITS = frozenset(
    {
        *("threat", "model", "data", "data_root", "n", "device", "seed"),
        *("out", "resume", "about", "as_json"),
    }
)


@click.command()
@click.option(
    "--threat", default="linf", show_default=True, help="Threat model: a name or a .toml file."
)
@click.option(
    "--model",
    default=MODEL,
    show_default=True,
    help="A name, a saved directory, http://host:port (labels only), or file.py:factory / "
    "package.module:factory (runs that code). Of unlearnable data: the learners' architecture.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights: .safetensors or .pt.")
@click.option(
    "--data",
    default="samples:cifar10",
    show_default=True,
    help="A name, a folder or an array file.",
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where named data sets lie.")
@click.option("--split", default="test", show_default=True, help="Part of the data set.")
@click.option("--n", type=int, help="How many examples; all by default.")
@click.option(
    "--select",
    type=click.Choice(["first", "stratified"]),
    default="first",
    show_default=True,
    help="Which n examples.",
)
@click.option("--size", type=int, default=32, show_default=True, help="Side for mixed image sizes.")
@click.option("--download", is_flag=True, help="Fetch a named data set that is not here.")
@click.option("--eps", help="Radius: a number or a fraction such as 8/255.")
@click.option("--access", help="What the adversary sees: decision, score or gradient.")
@click.option("--goal", help="untargeted or targeted[:random|least-likely|second].")
@click.option("--queries", type=int, help="Queries per example.")
@click.option("--plan", help="fast, standard (default) or thorough; see `robustkit show`.")
@click.option("--attacks", help="Comma-separated; replaces the plan.")
@click.option("--options", help="Comma-separated attack.key=value, such as pgd.steps=100.")
@click.option("--eps-sweep", help="Comma-separated radii: robust accuracy at each, as a curve.")
@click.option("--reference", help="Run this on what stands at the end, such as autoattack.")
@click.option("--reference-n", type=int, help="Run it on so many of them, chosen at random.")
@click.option("--reference-model", help="Unit of the mean corruption error: a name or directory.")
@click.option("--batch-size", type=int, help="Rows per batch; the largest that fits by default.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:i].")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16"]),
    help="Of the search; bf16 by default on a GPU that has it. Verdicts are fp32.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report and records.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--about", type=click.Path(path_type=Path), help="TOML file on the model's origin.")
@click.option("--json", "as_json", is_flag=True, help="Print only the report, as JSON.")
def evaluate(
    threat: str,
    model: str,
    weights: Path | None,
    data: str,
    data_root: Path | None,
    split: str,
    n: int | None,
    select: str,
    size: int,
    download: bool,
    eps: str | None,
    access: str | None,
    goal: str | None,
    queries: int | None,
    plan: str | None,
    attacks: str | None,
    options: str | None,
    eps_sweep: str | None,
    reference: str | None,
    reference_n: int | None,
    reference_model: str | None,
    batch_size: int | None,
    device: str,
    dtype: str | None,
    seed: int,
    out: Path | None,
    resume: bool,
    about: Path | None,
    as_json: bool,
) -> int:
    """Attack a model and report how many examples stand.

    \b
    With nothing given: the CIFAR-10 ResNet-18 that AutoAttack carries, on the 20 CIFAR-10 images
    that Foolbox carries. See `robustkit list` for names.
    """  # noqa: D301
    if threat.split("-")[0] == UNLEARNABLE:
        request = Request(
            data=data,
            root=data_root,
            model=None if model == MODEL else model,
            n=n,
            seed=seed,
            device=device,
            out=out,
            resume=resume,
            about=about,
        )
        return _audit(request, as_json=as_json)
    natural = threat == CORRUPTIONS
    place = ranks.Place.here()
    _check_place(place, out, natural=natural, resume=resume)
    if natural:
        _refuse_attacks(
            {
                "eps": eps,
                "access": access,
                "goal": goal,
                "queries": queries,
                "plan": plan,
                "attacks": attacks,
                "options": options,
                "eps-sweep": eps_sweep,
                "reference": reference,
                "reference-n": reference_n,
                "dtype": dtype,
            }
        )
    elif reference_model is not None:
        raise BadInput(f"--reference-model belongs to --threat {CORRUPTIONS}. Leave it out.")
    adversary = _threat(threat, eps, access, goal, queries)
    named = _attacks(attacks, options)
    if plan is not None and named is not None:
        raise BadInput("--attacks replaces the plan: leave --plan or --attacks out.")

    import torch
    from rich.console import Console

    from robustkit import data as datasets
    from robustkit import evaluation, models, report
    from robustkit.cli.progress import Lines, watch
    from robustkit.evaluation import OthersAtWork, Share

    with kept_apart():
        chosen = _device(
            device, torch.cuda.device_count() if torch.cuda.is_available() else 0, place
        )
        untrained = models.needs_weights(model)
        if untrained and weights is None:
            raise BadInput(
                f"{model!r} is an architecture without weights. Give --weights FILE, or a "
                "directory that robustkit saved as --model."
            )
        images = datasets.load(
            data,
            split=split,
            root=data_root,
            size=size,
            n=n,
            select=select,  # type: ignore[arg-type]
            seed=seed,
            download=download,
        )
        classifier = models.load(
            model,
            weights=weights,
            # An architecture is built for the data; what comes with weights knows its classes.
            classes=images.classes if untrained else None,
            channels=images.shape[0] if untrained else None,
            size=images.shape[1] if untrained else None,
            device=chosen,
        )
        judge = (
            partial(
                evaluation.evaluate_corruptions,
                reference=_reference(reference_model, chosen),
                reference_name=reference_model,
            )
            if natural
            else partial(
                evaluation.evaluate,
                threat=adversary,
                attacks=named,
                plan=plan or "standard",
                eps_sweep=_radii(eps_sweep),
                reference=reference,
                reference_n=reference_n,
                dtype=dtype,
                share=None if place is None else Share(rank=place.rank, world=place.world),
            )
        )
        try:
            # Bars of several processes would be drawn over one another.
            with watch() if place is None else nullcontext(Lines()) as progress:
                result = judge(
                    classifier,
                    images,
                    seed=seed,
                    batch_size=batch_size,
                    device=chosen,
                    out=out,
                    resume=resume or ranks.restarted(),
                    about=None if about is None else report.read_about(about),
                    model_name=model,
                    command=_command(),
                    progress=progress,
                )
        except OthersAtWork as ended:
            click.echo(str(ended), err=True)
            return 0
    if as_json:
        click.echo(result.to_json(), nl=False)
    else:
        report.show(result, Console())
        if out is not None:
            click.echo(f"Report: {out / 'report.html'}", err=True)
    return VIOLATION if isinstance(result, report.EvasionReport) and result.violations else 0


def _audit(request: Request, *, as_json: bool) -> int:
    """Audit a published set, which is what this command means by such a threat."""
    context = click.get_current_context()
    given = [name for name in context.params if context.get_parameter_source(name) is not _DEFAULT]
    others = [f"--{name.replace('_', '-')}" for name in given if name not in _OF_AUDITS]
    if others:
        raise BadInput(
            f"{', '.join(others)} cannot be combined with --threat {context.params['threat']}, "
            "which trains learners on a published set. Leave it out; `robustkit unlearn audit` has "
            "the options of an audit."
        )
    if "data" not in given:
        raise BadInput(
            f"--threat {context.params['threat']} needs --data DIR, a set that `robustkit unlearn "
            "make` has written."
        )
    if ranks.Place.here() is not None:
        raise BadInput("An audit runs in one process. Start it without torchrun.")
    return audited(request, as_json=as_json)


def _check_place(
    place: ranks.Place | None, out: Path | None, *, natural: bool, resume: bool
) -> None:
    """Refuse to go on with nothing, and what several processes cannot do."""
    if resume and out is None:
        raise BadInput("--resume needs --out, the folder of the run to go on with.")
    if place is None:
        return
    if out is None:
        raise BadInput(
            f"{place.world} processes need --out, a folder in which they meet. Add --out DIR, or "
            "start one process."
        )
    if natural:
        raise BadInput(f"--threat {CORRUPTIONS} runs in one process. Start it without torchrun.")


def _radii(text: str | None) -> "list[float]":
    from robustkit.threat_models import parse_radius

    return [parse_radius(one) for one in parts(text, "--eps-sweep", "radius")] if text else []


def _refuse_attacks(given: Mapping[str, object]) -> None:
    """Refuse options that describe an adversary, where there is none."""
    named = [f"--{name}" for name, value in given.items() if value is not None]
    if named:
        raise BadInput(
            f"{', '.join(named)} cannot be combined with --threat {CORRUPTIONS}: nobody attacks "
            "there. Leave it out, or choose another threat."
        )


def _reference(spec: str | None, device: str) -> "nn.Module | None":
    """The model whose errors are the unit of the mean corruption error."""
    from robustkit import models

    if spec is None:
        return None
    if models.needs_weights(spec):
        raise BadInput(
            f"--reference-model {spec!r} is an architecture without weights. Give a model that "
            "comes with them, or a directory that robustkit saved."
        )
    return models.load(spec, device=device)


def _threat(
    spec: str, eps: str | None, access: str | None, goal: str | None, queries: int | None
) -> "ThreatModel":
    from dataclasses import replace

    from robustkit import threat_models

    threat = threat_models.load(spec)
    if eps is not None:
        threat = threat.with_radius(threat_models.parse_radius(eps))
    if access is not None:
        threat = replace(threat, access=threat_models.Access.parse(access))
    if goal is not None:
        threat = replace(threat, goal=threat_models.parse_goal(goal))
    if queries is not None:
        threat = replace(threat, budget=replace(threat.budget, queries=queries))
    return threat


def _attacks(names: str | None, options: str | None) -> "list[EvasionAttack[Any]] | None":
    """The attacks named by hand; None for the plan."""
    chosen = _options(options)
    if names is None:
        if chosen:
            raise BadInput("--options needs --attacks: options belong to attacks that are named.")
        return None
    wanted = parts(names, "--attacks", "name")
    unused = sorted(set(chosen) - set(wanted))
    if unused:
        raise BadInput(f"--options names {', '.join(unused)}, which --attacks does not.")
    from robustkit.attacks import build

    return [build(name, chosen.get(name, {})) for name in wanted]


def _options(text: str | None) -> dict[str, dict[str, str]]:
    """`a.x=1,a.y=2` as {a: {x: 1, y: 2}}."""
    found: dict[str, dict[str, str]] = {}
    for part in text.split(",") if text else []:
        path, equals, value = part.partition("=")
        attack, dot, key = path.strip().rpartition(".")
        if not (equals and dot and attack and key):
            raise BadInput(f"The option {part!r} is not understood. Write attack.key=value.")
        found.setdefault(attack, {})[key] = value.strip()
    return found


def _device(name: str, gpus: int, place: ranks.Place | None = None) -> str:
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name == "cuda" and place is not None:
        return _own_device(gpus, place)
    kind, colon, number = name.partition(":")
    known = name == "cpu" or (kind == "cuda" and (number.isdigit() or not colon))
    if not known:
        raise BadInput(f"The device {name!r} is unknown. Use auto, cpu, cuda or cuda:0.")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise BadInput(
            f"The device {name!r} is not there: {gpus} CUDA devices were found. Use --device cpu."
        )
    return name


def _own_device(gpus: int, place: ranks.Place) -> str:
    """Each process of a machine has a GPU of its own."""
    if place.local_world > gpus:
        raise BadInput(
            f"{place.local_world} processes were started here, and {gpus} CUDA devices were found. "
            "Start fewer, or say --device cuda:0 to have them share it, or --device cpu."
        )
    return f"cuda:{place.local_rank}"


def _command() -> str:
    from robustkit.cli import command_line

    given: list[str] | None = click.get_current_context().obj
    return command_line(sys.argv[1:] if given is None else given)
