"""`robustkit unlearn make`."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit.cli.settings import setting
from robustkit.errors import BadInput, MissingFile, UnknownName

if TYPE_CHECKING:
    from robustkit.attacks.base import PoisoningAttack
    from robustkit.data import LabelledImages
    from robustkit.threat_models import ThreatModel
    from robustkit.unlearnable import Key, Manifest

# Of methods that train a model; --set changes it.
_TRAINING: Mapping[str, Any] = {
    "optimizer": {"name": "sgd", "nesterov": True},
    "schedule": {"name": "one-cycle"},
    "trainer": {"epochs": 15},
}


@click.command()
@click.option("--method", required=True, help="See `robustkit list unlearnable`.")
@click.option("--data", required=True, help="A name, a folder or an array file.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where named data sets lie.")
@click.option("--n", type=int, help="How many examples, evenly from the classes; all by default.")
@click.option("--size", type=int, default=32, show_default=True, help="Side for mixed image sizes.")
@click.option("--download", is_flag=True, help="Fetch a named data set that is not here.")
@click.option(
    "--key-file", type=click.Path(path_type=Path), help="The secret; a new one if it is not there."
)
@click.option("--threat", help="Threat model: a name or a .toml file.  [default: the method's]")
@click.option("--kernel", type=int, help="Rows and columns of filters; odd.  [default: 3]")
@click.option("--eps", help="Radius: a number or a fraction such as 8/255.")
@click.option("--fraction", type=float, help="Share of the images to change.  [default: 1]")
@click.option("--options", help="Comma-separated options of the method: p_b=0.1,rounding=round.")
@click.option(
    "--set", "settings", multiple=True, help="Of a method's training: --set trainer.epochs=30."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is no secret.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:i].")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the published set."
)
def make(
    method: str,
    data: str,
    data_root: Path | None,
    n: int | None,
    size: int,
    download: bool,
    key_file: Path | None,
    threat: str | None,
    kernel: int | None,
    eps: str | None,
    fraction: float | None,
    options: str | None,
    settings: tuple[str, ...],
    seed: int,
    device: str,
    out: Path,
) -> int:
    """Change training images before they are published, so that nobody learns much from them.

    \b
    robustkit unlearn make --method cuda --data fashion-mnist --key-file my.key --out DIR
    robustkit train --data DIR --loss cross-entropy --out MODEL

    DIR holds the changed training images, the test images as they are, and a description without
    the key: it can be published. DIR.private.html, beside it, shows originals: it cannot, and
    neither can the key. Whether the set protects anything, `robustkit unlearn audit` finds out.
    """  # noqa: D301
    table = dict(setting(part, "--options") for part in options.split(",")) if options else {}
    _check_places(key_file, out, legacy="legacy_seed" in table)
    from robustkit import data as datasets
    from robustkit.cli.train_progress import watch
    from robustkit.training.recipe import Recipe
    from robustkit.unlearnable import build
    from robustkit.unlearnable.page import place, write_page
    from robustkit.unlearnable.releasing import Release, source_of

    key, is_new = _key(key_file, out)
    attack = build(method, table, key=key)
    whole = datasets.load(data, split="train", root=data_root, size=size, download=download)
    clean = whole if n is None else whole.stratified(n, seed=seed)
    changes = _nested(dict(setting(text, "--set", "section.key=value") for text in settings))
    recipe = Recipe({**_TRAINING, "runtime": {"device": device}}, "--set").changed(changes)
    release = Release(
        name=method,
        method=attack,
        threat=_threat(attack, threat, kernel, eps, fraction),
        key=key,
        seed=seed,
        source=source_of(data, whole, clean, size=size),
        clean=clean,
        training=recipe.table,
    )
    made = release.already(out)
    if made is None:
        test = _test(data, whole, root=data_root, size=size)
        if is_new and key is not None and key_file is not None:
            # First: a set whose key is lost cannot be examined by its publisher.
            key.write(key_file)
            click.echo(f"{key_file}: a new key. Keep it, and keep it to yourself.", err=True)
        with watch(enabled=attack.trains) as progress:
            trainer = recipe.trainer(clean, progress=progress)
            with trainer.runtime.open() as session:
                made = release.publish(out, test=test, trainer=trainer, device=session.device)
    else:
        click.echo(f"{out} holds this very set already.", err=True)
    write_page(place(out), made, clean, datasets.load(str(out), split=clean.split))
    _tell(made, out, key_file)
    click.echo(f"Not to be published: {place(out)}", err=True)
    return 0


def _check_places(key_file: Path | None, out: Path, *, legacy: bool) -> None:
    if key_file is None and not legacy:
        raise BadInput(
            "There is no secret: give --key-file FILE. A new key is written if it is not there."
        )
    if key_file is not None and key_file.resolve().is_relative_to(out.resolve()):
        raise BadInput(
            f"The key file {str(key_file)!r} lies in --out, which is published. Keep it elsewhere."
        )


def _key(path: Path | None, out: Path) -> "tuple[Key | None, bool]":
    """The key, and whether it is new and in no file yet."""
    from robustkit.unlearnable import Key

    if path is None:
        return None, False
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise MissingFile(
                f"There is no key file {str(path)!r}, and {str(out)!r} is not empty. Give the key "
                "that its set was made with, or another folder."
            )
        return Key.new(), True
    if os.name == "posix" and path.stat().st_mode & 0o077:
        click.echo(f"Others on this machine may read {path}: chmod 600 it.", err=True)
    return Key.read(path), False


def _threat(
    method: "PoisoningAttack",
    spec: str | None,
    kernel: int | None,
    eps: str | None,
    fraction: float | None,
) -> "ThreatModel":
    from robustkit import threat_models
    from robustkit.unlearnable import preset

    threat = preset(method) if spec is None else threat_models.load(spec)
    if kernel is not None:
        if not isinstance(threat.perturbation, threat_models.Convolutions):
            raise BadInput(f"The threat model {threat.name!r} has no kernel: leave --kernel out.")
        threat = replace(threat, perturbation=replace(threat.perturbation, kernel=kernel))
    if eps is not None:
        threat = threat.with_radius(threat_models.parse_radius(eps))
    if fraction is not None:
        threat = replace(threat, budget=replace(threat.budget, poison_rate=fraction))
    return threat


def _test(
    spec: str, train: "LabelledImages", *, root: Path | None, size: int
) -> "LabelledImages | None":
    """The test images, if there are any but the training images.

    A set without parts of its own is given whole for any split; to publish it for tests would
    publish all originals.
    """
    from robustkit import data as datasets

    try:
        test = datasets.load(spec, split="test", root=root, size=size)
    except UnknownName:
        test = None
    if test is None or test.sha256 == train.sha256:
        click.echo(
            f"{spec} has no test images of its own: only training images are written.",
            err=True,
        )
        return None
    return test


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"trainer.epochs": 5}` as `{"trainer": {"epochs": 5}}`."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        section, dot, key = path.partition(".")
        if not dot:
            raise BadInput(f"--set {path!r} is not understood. Write --set section.key=value.")
        nested.setdefault(section, {})[key] = value
    return nested


def _tell(made: "Manifest", out: Path, key_file: Path | None) -> None:
    from robustkit.cli import command_line

    click.echo(
        f"{out}: {made.method} of {made.clean.spec}, {made.changed:,} of {made.clean.n:,} training "
        "images changed"
    )
    for name, spread in (
        ("PSNR in dB", made.distortion.psnr),
        ("SSIM", made.distortion.ssim),
        ("largest difference", made.distortion.linf),
    ):
        if spread is not None:
            click.echo(
                f"  {name}: median {spread.median:.3g}, 90 % of the images from {spread.q05:.3g} "
                f"to {spread.q95:.3g}"
            )
    click.echo("Whether that keeps anybody from learning:")
    key = [] if key_file is None else ["--key-file", str(key_file)]
    click.echo(f"  {command_line(['unlearn', 'audit', '--data', str(out), *key])}")
