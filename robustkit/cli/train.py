"""`robustkit train`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit.cli.foreign import kept_apart
from robustkit.cli.settings import setting
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.training import TrainResult
    from robustkit.training.recipe import Recipe


@click.command()
@click.option("--recipe", "recipe_name", help="A name (`robustkit list recipes`) or a .toml file.")
@click.option("--data", help="A name, a folder or an array file.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where named data sets lie.")
@click.option("--split", default="train", show_default=True, help="Part of the data set.")
@click.option("--n", type=int, help="How many examples, evenly from the classes; all by default.")
@click.option("--size", type=int, default=32, show_default=True, help="Side for mixed image sizes.")
@click.option("--download", is_flag=True, help="Fetch a named data set that is not here.")
@click.option("--extra", help="Further examples to learn from, such as generated ones: a file.")
@click.option("--extra-share", type=float, help="Their share of every batch.  [default: 0.7]")
@click.option("--model", help="A name, or a saved directory to train further.  [default: cnn]")
@click.option("--loss", help="See `robustkit list losses`.  [default: pgd]")
@click.option("--threat", help="Threat model: a name or a .toml file.  [default: linf]")
@click.option("--eps", help="Radius: a number or a fraction such as 8/255.")
@click.option("--awp", type=float, help="Adversarial weight perturbation of this relative size.")
@click.option("--teacher", help="For the loss distillation: a trained model.")
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--batch-size", type=int, help="Examples per step, all processes together.")
@click.option("--lr", type=float, help="Largest learning rate.")
@click.option("--seed", type=int, help="Of all randomness.  [default: 0]")
@click.option(
    "--set", "settings", multiple=True, help="Anything else: --set loss.beta=3. Repeatable."
)
@click.option("--device", help="auto, cpu or cuda[:i].  [default: auto]")
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), help="Of the passes.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the model first.")
@click.option("--tensorboard", is_flag=True, help="Write a TensorBoard log too.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the trained model."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
def train(
    recipe_name: str | None,
    data: str | None,
    data_root: Path | None,
    split: str,
    n: int | None,
    size: int,
    download: bool,
    extra: str | None,
    extra_share: float | None,
    model: str | None,
    loss: str | None,
    threat: str | None,
    eps: str | None,
    awp: float | None,
    teacher: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    settings: tuple[str, ...],
    device: str | None,
    dtype: str | None,
    compiled: bool,
    tensorboard: bool,
    out: Path,
    resume: bool,
) -> int:
    """Train a robust model and write it to a folder that `robustkit evaluate --model` takes.

    \b
    robustkit train --recipe digits-pgd --out DIR
    robustkit train --data fashion-mnist --model cnn --loss trades --threat linf --eps 0.1 --out DIR

    The adversary attacks every batch, and the epoch that does best against it on held-out training
    examples is kept. Without --recipe that of the data, the model and the loss is taken, if there
    is one. Under torchrun several processes share the work.
    """  # noqa: D301
    from robustkit import data as datasets
    from robustkit.cli import INTERRUPTED
    from robustkit.cli.train_progress import watch
    from robustkit.training.publishing import prepare, publish, record

    recipe = _recipe(recipe_name, data, model, loss).changed(
        _changes(
            {
                "data": data,
                "extra.data": extra,
                "extra.share": extra_share,
                "model": model,
                "loss.name": loss,
                "threat.spec": threat,
                "threat.eps": eps,
                "awp.gamma": awp,
                "trainer.epochs": epochs,
                "trainer.batch_size": batch_size,
                "optimizer.lr": lr,
                "trainer.seed": seed,
                "runtime.device": device,
                "runtime.dtype": dtype,
                "runtime.compile": "inductor" if compiled else None,
            }
        )
    )
    recipe = recipe.changed(
        _changes(dict(setting(text, "--set", "section.key=value") for text in settings))
    ).complete()
    if "data" not in recipe.table:
        raise BadInput("There is no data to learn from: give --data, or a --recipe that names it.")
    chosen_seed = recipe.seed
    images = datasets.load(
        recipe.table["data"],
        split=split,
        root=data_root,
        size=size,
        n=n,
        select="stratified",
        seed=chosen_seed,
        download=download,
    )
    further = recipe.extra(root=data_root, size=size)
    spec = recipe.table["model"]
    network, arguments = prepare(
        spec, recipe.table.get("model_arguments", {}), images, seed=chosen_seed
    )
    aim = recipe.loss(None if teacher is None else _teacher(teacher))
    with kept_apart(), watch(enabled=_first()) as progress:
        trainer = recipe.trainer(
            images, out=out, resume=resume, tensorboard=tensorboard, progress=progress
        )
        result = trainer.fit(network, images, aim, extra=further)
    if not _first():
        return 0
    if result.stopped_by == "signal":
        click.echo(f"Interrupted. What was learnt is kept. Go on with:\n  {_again()}", err=True)
        return INTERRUPTED
    about = record(recipe, recipe.threat(), images, result, extra=further)
    publish(network, out, spec=spec, arguments=arguments, about=about)
    _tell(recipe, result, out)
    return 0


def _first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def _recipe(name: str | None, data: str | None, model: str | None, loss: str | None) -> "Recipe":
    from robustkit.training import recipe

    if name is not None:
        return recipe.load(name)
    found = recipe.for_words(data=data, model=model, loss=loss)
    if found.table is not recipe.DEFAULTS and _first():
        click.echo(f"What is not said is taken from {found.where}.", err=True)
    return found


def _teacher(spec: str) -> Any:  # noqa: ANN401 - a torch module, which must not be imported here
    from robustkit import models

    if models.needs_weights(spec):
        raise BadInput(f"The teacher {spec!r} is an architecture without weights.")
    return models.load(spec)


def _changes(flat: dict[str, Any]) -> dict[str, Any]:
    """`{"loss.name": "trades"}` as `{"loss": {"name": "trades"}}`, without what is None."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        section, dot, key = path.partition(".")
        if value is None:
            continue
        if dot:
            nested.setdefault(section, {})[key] = value
        else:
            nested[section] = value
    return nested


def _tell(recipe: "Recipe", result: "TrainResult", out: Path) -> None:
    if result.stopped_by == "diverged":
        raise BadInput(
            f"The loss became NaN or infinite after epoch {result.last.epoch}. The best weights "
            f"until then are in {str(out)!r}. Lower the learning rate (--lr), or clip gradients "
            "(--set trainer.clip=1)."
        )
    if result.stopped_by not in ("epochs", "max_steps"):
        click.echo(f"Stopped early: {result.stopped_by}.", err=True)
    best = next((entry for entry in result.history if entry["epoch"] == result.best.epoch), {})
    click.echo(f"{out}: {recipe.table['model']} after epoch {result.best.epoch}")
    for name, value in best.items():
        if name.startswith("held_out"):
            click.echo(f"  {name.replace('_', ' ')}: {value:.1%}")
    click.echo("Held-out figures chose the epoch. For a verdict:")
    click.echo(f"  {_evaluation(recipe, out)}")


def _evaluation(recipe: "Recipe", out: Path) -> str:
    from robustkit.cli import command_line

    threat = recipe.table.get("threat", {})
    words = ["evaluate", "--model", str(out), "--data", recipe.table["data"]]
    words += ["--threat", str(threat.get("spec", "linf"))]
    words += ["--eps", str(threat["eps"])] if "eps" in threat else []
    return command_line(words)


def _again() -> str:
    from robustkit.cli import command_line

    given = sys.argv[1:]
    return command_line([*given, *([] if "--resume" in given else ["--resume"])])
