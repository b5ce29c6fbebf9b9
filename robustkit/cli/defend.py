"""`robustkit defend`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from robustkit.cli.defend_crossmax import crossmax
from robustkit.cli.settings import setting
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.cli.origin import Origin
    from robustkit.data import LabelledImages
    from robustkit.defenses import RiFT, RiFTReport


@click.group()
def defend() -> None:
    """Make a trained model harder to attack, or a robust one more accurate."""


defend.add_command(crossmax)


@defend.command()
@click.option("--model", required=True, help="A saved directory, a name, or file.py:factory.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights: .safetensors or .pt.")
@click.option("--data", help="Training images.  [default: what the saved model has learnt from]")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where named data sets lie.")
@click.option("--split", help="Part of the data set; never that of the test.  [default: train]")
@click.option("--n", type=int, help="How many examples, evenly from the classes.")
@click.option("--size", type=int, default=32, show_default=True, help="Side for mixed image sizes.")
@click.option("--download", is_flag=True, help="Fetch a named data set that is not here.")
@click.option("--threat", help="Threat model.  [default: the saved model's, else linf]")
@click.option("--eps", help="Radius: a number or a fraction such as 8/255.")
@click.option("--module", help="Comma-separated modules to fine-tune, by their exact names.")
@click.option("--epochs", type=int, default=10, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Examples per step.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate.")
@click.option("--seed", type=int, help="Of all randomness.  [default: the saved model's, else 0]")
@click.option(
    "--set", "settings", multiple=True, help="Anything else: --set held_out=500. Repeatable."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:i].")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the tuned model."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print only the report, as JSON.")
def rift(
    model: str,
    weights: Path | None,
    data: str | None,
    data_root: Path | None,
    split: str | None,
    n: int | None,
    size: int,
    download: bool,
    threat: str | None,
    eps: str | None,
    module: str | None,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int | None,
    settings: tuple[str, ...],
    device: str,
    out: Path,
    resume: bool,
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
    _check_places(model, split, out)
    from robustkit import data as datasets
    from robustkit import models
    from robustkit.cli import INTERRUPTED
    from robustkit.cli.origin import Origin
    from robustkit.cli.train_progress import watch
    from robustkit.randomness import Streams

    origin = Origin.of(model)
    chosen_seed = origin.seed if seed is None else seed
    method = _method(module, settings, origin)
    adversary = origin.threat(threat, eps)
    untrained = models.needs_weights(model)
    if untrained and weights is None:
        raise BadInput(
            f"{model!r} is an architecture without weights, and RiFT needs an adversarially "
            "trained model. Give --weights FILE, or a directory that robustkit saved as --model."
        )
    images = datasets.load(
        origin.data if data is None else data,
        split=split or (origin.split if data is None else "train"),
        n=origin.n if n is None and data is None else n,
        root=data_root,
        size=size,
        select="stratified",
        seed=chosen_seed,
        download=download,
    )
    with watch(enabled=True) as progress:
        trainer = dataclasses.replace(
            origin.fine_tuning(images, epochs=epochs, lr=lr, device=device),
            batch_size=batch_size,
            seed=chosen_seed,
            out=out,
            resume=resume,
            progress=progress,
        )
        with trainer.runtime.open() as session:
            where = session.device
        built = _built(images) if untrained else {}
        classifier = models.load(model, weights=weights, device=where, **built)
        streams = Streams.of(seed=chosen_seed, ids=images.ids, purpose="rift")
        try:
            tuned = method.tune(classifier, images, adversary, trainer=trainer, streams=streams)
        except KeyboardInterrupt:
            click.echo(f"Interrupted. Go on with:\n  {_again()}", err=True)
            return INTERRUPTED
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


def _check_places(model: str, split: str | None, out: Path) -> None:
    """Refuse to choose on test images, and to write over what is being defended."""
    if split == "test":
        raise BadInput(
            "RiFT learns from its images and chooses by them, so that test images would no longer "
            "tell how well it does. Give training images: --split train."
        )
    if Path(model).is_dir() and out.resolve() == Path(model).resolve():
        raise BadInput(f"--out is the folder of the model, {str(out)!r}. Give another folder.")


def _method(module: str | None, settings: tuple[str, ...], origin: "Origin") -> "RiFT":
    from robustkit.defenses import RiFT
    from robustkit.training.options import build

    table: dict[str, Any] = {"held_out": origin.held_out} if origin.held_out else {}
    table |= dict(setting(text, "--set") for text in settings)
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


def _again() -> str:
    from robustkit.cli import command_line

    given: list[str] | None = click.get_current_context().find_root().obj
    words = sys.argv[1:] if given is None else given
    return command_line([*words, *([] if "--resume" in words else ["--resume"])])
