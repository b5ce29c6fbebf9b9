"""`robustkit defend`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from robustkit.cli.defend_contextual_fusion import contextual_fusion
from robustkit.cli.defend_crossmax import crossmax
from robustkit.cli.defend_lq_vae import lq_vae
from robustkit.cli.defend_multi_resolution import multi_resolution
from robustkit.cli.foreign import kept_apart
from robustkit.cli.lesson import Lesson, learning
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.cli.origin import Origin
    from robustkit.data import LabelledImages
    from robustkit.defenses import RiFT, RiFTReport


@click.group()
def defend() -> None:
    """Make a trained model harder to attack, or a robust one more accurate."""


defend.add_command(contextual_fusion)
defend.add_command(crossmax)
defend.add_command(lq_vae)
defend.add_command(multi_resolution)


@defend.command()
@click.option("--model", required=True, help="A saved directory, a name, or file.py:factory.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights: .safetensors or .pt.")
@click.option("--threat", help="Threat model.  [default: the saved model's, else linf]")
@click.option("--eps", help="Radius: a number or a fraction such as 8/255.")
@click.option("--module", help="Comma-separated modules to fine-tune, by their exact names.")
@learning(epochs=10, lr=1e-3)
@click.option("--json", "as_json", is_flag=True, help="Print only the report, as JSON.")
def rift(
    model: str,
    weights: Path | None,
    threat: str | None,
    eps: str | None,
    module: str | None,
    lesson: Lesson,
    as_json: bool,
) -> int:
    """Fine-tune on clean images the weights that robustness needs least (RiFT).

    \b
    robustkit train --recipe fashion-mnist-pgd --out DIR
    robustkit defend rift --model DIR --lr 0.1 --out DIR2
    robustkit evaluate --model DIR2 --data fashion-mnist --eps 0.1

    One tensor is chosen, fine-tuned, and put as far between old and new as training images that
    are held out allow. DIR2 holds the model, rift.json and rift.png. See `robustkit show rift`.
    """  # noqa: D301
    lesson.check_places([model])
    from robustkit import models
    from robustkit.cli.origin import Origin
    from robustkit.cli.train_progress import watch
    from robustkit.randomness import Streams

    origin = Origin.of(model)
    seed = lesson.seed_after(origin)
    method = _method(module, lesson, origin)
    adversary = origin.threat(threat, eps)
    untrained = models.needs_weights(model)
    if untrained and weights is None:
        raise BadInput(
            f"{model!r} is an architecture without weights, and RiFT needs an adversarially "
            "trained model. Give --weights FILE, or a directory that robustkit saved as --model."
        )
    images = lesson.images(origin)
    with kept_apart(), watch(enabled=True) as progress:
        tuning = origin.fine_tuning(
            images, epochs=lesson.epochs, lr=lesson.lr, device=lesson.device
        )
        trainer = lesson.placed(tuning, seed, progress)
        with trainer.runtime.open() as session:
            where = session.device
        built = _built(images) if untrained else {}
        classifier = models.load(model, weights=weights, device=where, **built)
        streams = Streams.of(seed=seed, ids=images.ids, purpose="rift")
        tuned = method.tune(classifier, images, adversary, trainer=trainer, streams=streams)
    out = lesson.out
    tuned.report.write(out)
    about = {**origin.about, "defense": tuned.report.summary()}
    models.save(tuned.model.cpu(), out, spec=model, arguments=built, about=about)
    if as_json:
        click.echo(tuned.report.to_json(), nl=False)
        return 0
    _tell(tuned.report)
    click.echo(f"{out}: {tuned.report.verdict}")
    click.echo("Held-out figures chose that. For a verdict:")
    click.echo(f"  {_evaluation(model, out, [*origin.threat_words(threat, eps)], images.spec)}")
    return 0


def _method(module: str | None, lesson: Lesson, origin: "Origin") -> "RiFT":
    from robustkit.defenses import RiFT
    from robustkit.training.options import build

    table: dict[str, Any] = {"held_out": origin.held_out} if origin.held_out else {}
    table |= lesson.table()
    if module is not None:
        table["modules"] = [name.strip() for name in module.split(",")]
    return build(RiFT, table, where="rift")


def _built(images: "LabelledImages") -> "dict[str, int]":
    """What an architecture without weights is built for."""
    return {"classes": images.classes, "channels": images.shape[0], "size": images.shape[1]}


def _tell(report: "RiFTReport") -> None:
    """The ranking and the curve as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    ranking = Table(title="least critical first", title_justify="left", box=None, pad_edge=False)
    for column in ("module", "parameters", "MRC", "accuracy", ""):
        ranking.add_column(column, justify="left" if column in ("module", "") else "right")
    for one in report.criticality:
        mark = "fine-tuned" if one.module in report.modules else "stem" if one.stem else ""
        drop = f"{-100 * one.accuracy_drop:+.1f}"
        ranking.add_row(one.module, f"{one.parameters:,}", f"{one.mrc:.4f}", drop, mark)
    way = Table(title="held out, %", title_justify="left", box=None, pad_edge=False)
    for column in ("alpha", "clean", "robust", "clean gain", "robust gain", ""):
        way.add_column(column, justify="left" if not column else "right")
    for point in report.curve:
        gains = [
            f"{100 * gain.value:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
            for gain in (point.clean_gain, point.robust_gain)
        ]
        mark = "chosen" if point is report.chosen else "" if point.safe else "not safe"
        shares = [f"{100 * share.value:.2f}" for share in (point.clean, point.robust)]
        # The brackets of an interval are no markup.
        way.add_row(f"{point.alpha:g}", *shares, *map(escape, gains), mark)
    console.print(ranking)
    console.print()
    console.print(way)
    console.print()


def _evaluation(model: str, out: Path, threat: list[str], data: str) -> str:
    from robustkit.cli import command_line
    from robustkit.models import read_record

    # What the user's code has built is not rebuilt by a folder alone.
    code = read_record(out)["kind"] == "code"
    words = ["--model", model, "--weights", str(out)] if code else ["--model", str(out)]
    return command_line(["evaluate", *words, "--data", data, *threat])
