"""What `robustkit unlearn audit` and `robustkit evaluate --threat unlearnable` have in common."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit.cli.foreign import kept_apart
from robustkit.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from robustkit.data import LabelledImages
    from robustkit.evaluation import Origin
    from robustkit.training import Trainer
    from robustkit.unlearnable import Manifest


@dataclass(frozen=True, kw_only=True)
class Request:
    """An audit as a command line asks for it.

    Attributes:
        data: The published set.
        clean: What it was made from; None for what it says itself.
        root: Where named data sets lie.
        key_file: Its key, if the auditor has it.
        model: The learners' architecture; None for the recipe's, else `cnn`.
        learners: Comma-separated; None for the battery.
        recipe: How the learners train; None for the audit's own way.
        epochs: Of each training; None for the recipe's.
        n: How many published images, evenly from the classes; None for all.
        fractions: Comma-separated per cent.
        seed: Of all randomness.
        seeds: How often everything is repeated.
        device: `auto`, `cpu` or `cuda[:i]`.
        out: Folder for trainings and report.
        resume: Go on with the audit there.
        about: TOML file on the set's origin.
    """

    data: str
    clean: str | None = None
    root: Path | None = None
    key_file: Path | None = None
    model: str | None = None
    learners: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    n: int | None = None
    fractions: str | None = None
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    out: Path | None = None
    resume: bool = False
    about: Path | None = None


def audited(request: Request, *, as_json: bool) -> int:
    """Run an audit, print its report, and give the exit code."""
    if request.resume and request.out is None:
        raise BadInput("--resume needs --out, the folder of the audit to go on with.")
    from rich.console import Console

    from robustkit import report
    from robustkit.cli.progress import watch
    from robustkit.evaluation import evaluate_unlearnable

    with kept_apart():
        published, originals, test, origin = _sets(request)
        model, arguments, trainer = _training(request, published)
        with watch() as progress:
            result = evaluate_unlearnable(
                published,
                originals,
                test,
                model=model,
                arguments=arguments,
                learners=_words(request.learners),
                origin=origin,
                trainer=trainer,
                shares=_shares(request.fractions),
                seed=request.seed,
                seeds=request.seeds,
                out=request.out,
                resume=request.resume,
                about=None if request.about is None else report.read_about(request.about),
                command=_command(),
                progress=progress,
            )
    if as_json:
        click.echo(result.to_json(), nl=False)
        return 0
    report.show(result, Console())
    if request.out is not None:
        click.echo(f"Report: {request.out / 'report.html'}", err=True)
    return 0


def _sets(
    request: Request,
) -> "tuple[LabelledImages, LabelledImages, LabelledImages, Origin]":
    """The published images, their originals, clean test images, and how the set was made."""
    from robustkit import data as datasets
    from robustkit.unlearnable.manifest import NAME, Manifest

    folder = Path(request.data)
    manifest = Manifest.read(folder) if (folder / NAME).is_file() else None
    published = datasets.load(request.data, split="train", root=request.root)
    if request.n is not None:
        published = published.stratified(request.n, seed=request.seed)
    if request.clean is not None:
        spec = request.clean
        size = published.shape[1]
        originals = datasets.load(spec, split="train", root=request.root, size=size)
    elif manifest is not None:
        spec, size = manifest.clean.spec, manifest.clean.size
        originals = manifest.originals(root=request.root)
    else:
        raise BadInput(
            f"{request.data!r} does not say what it was made from. Give the originals: --clean."
        )
    test = _test(spec, root=request.root, size=size)
    return published, originals, test, _origin(manifest, request.key_file)


def _test(spec: str, *, root: Path | None, size: int) -> "LabelledImages":
    """The clean test images, which must not be those that the published ones were made from."""
    from robustkit import data as datasets

    train = datasets.load(spec, split="train", root=root, size=size)
    try:
        test = datasets.load(spec, split="test", root=root, size=size)
    except UnknownName:
        test = train
    # A set without parts of its own is given whole for any split.
    if test.sha256 == train.sha256:
        raise BadInput(
            f"{spec!r} has no test images apart from its training images, and an audit needs some "
            "that nobody trains on. Give a set that has: --clean."
        )
    return test


def _origin(manifest: "Manifest | None", key_file: Path | None) -> "Origin":
    from robustkit.evaluation import Origin
    from robustkit.unlearnable import Key

    if manifest is None:
        if key_file is not None:
            raise BadInput("The set does not say how it was made: leave --key-file out.")
        return Origin()
    key = None if key_file is None else Key.read(key_file)
    if key is not None:
        manifest.check_key(key)
    known = Origin(method=manifest.method, options=manifest.options, threat=manifest.threat_model())
    # A set without a key can be examined by anybody.
    if key is None and manifest.key is not None:
        return known
    publish = _publisher(manifest, key)
    return known if publish is None else replace(known, publish=publish)


def _publisher(
    manifest: "Manifest",
    key: Any,  # noqa: ANN401 - imports of torch stay inside functions
) -> "Callable[[LabelledImages], LabelledImages] | None":
    """What publishes other images under the same key; None where every image is trained for."""
    from robustkit.training import Trainer
    from robustkit.unlearnable.keys import streams

    method, threat = manifest.again(key), manifest.threat_model()
    if method.trains:
        return None
    whole = replace(threat, budget=replace(threat.budget, poison_rate=1.0))

    def publish(images: "LabelledImages") -> "LabelledImages":
        drawn = streams(key, manifest.seed, images.ids)
        return method.run(images, whole, trainer=Trainer(), streams=drawn).data

    return publish


def _training(
    request: Request, published: "LabelledImages"
) -> "tuple[str, dict[str, Any], Trainer]":
    """Architecture, its arguments, and how all learners train."""
    from robustkit.evaluation.unlearnable import TRAINER
    from robustkit.training import Runtime
    from robustkit.training import recipe as recipes

    arguments: dict[str, Any] = {}
    if request.recipe is None:
        model = "cnn"
        trainer = replace(TRAINER, runtime=Runtime(device=request.device))
    else:
        runtime = {"runtime": {"device": request.device}}
        recipe = recipes.load(request.recipe).changed(runtime).complete()
        model, arguments = recipe.table["model"], recipe.table.get("model_arguments", {})
        # Augmentation and selection are the learners' and the audit's own affair.
        trainer = replace(recipe.trainer(published), augmentation=(), selection=None)
    if request.model is not None:
        model, arguments = request.model, {}
    if request.epochs is not None:
        trainer = replace(trainer, epochs=request.epochs)
    return model, arguments, trainer


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _shares(text: str | None) -> list[float]:
    """`20,40` as 0.2, 0.4."""
    shares = []
    for part in _words(text) or []:
        try:
            shares.append(float(part) / 100)
        except ValueError:
            raise BadInput(
                f"--fractions holds {part!r}; write per cent with commas: 20,40,60,80,100."
            ) from None
    return shares


def _command() -> str:
    from robustkit.cli import command_line

    given: list[str] | None = click.get_current_context().find_root().obj
    return command_line(sys.argv[1:] if given is None else given)
