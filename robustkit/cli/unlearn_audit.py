"""`robustkit unlearn audit`."""

from pathlib import Path

import click

from robustkit.cli.auditing import Request, audited
from robustkit.errors import BadInput


@click.command()
@click.argument("folder", required=False)
@click.option("--data", help="The same as FOLDER: what `robustkit unlearn make` has written.")
@click.option("--clean", help="What it was made from.  [default: what the set says itself]")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where named data sets lie.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="The set's key, for tests of what was learnt in place of the classes.",
)
@click.option("--model", help="The learners' architecture.  [default: cnn]")
@click.option("--learners", help="Comma-separated, see `robustkit list learners`; all by default.")
@click.option("--recipe", help="How they train: a name (`robustkit list recipes`) or a .toml file.")
@click.option("--epochs", type=int, help="Of each training.  [default: 10]")
@click.option("--n", type=int, help="How many published images, evenly from the classes.")
@click.option(
    "--fractions", help="Comma-separated per cent: plain training where so much is published."
)
@click.option(
    "--seeds", type=int, default=1, show_default=True, help="How often everything is repeated."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all randomness.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:i].")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for trainings and report.")
@click.option("--resume", is_flag=True, help="Go on with the audit in --out.")
@click.option("--about", type=click.Path(path_type=Path), help="TOML file on the set's origin.")
@click.option("--json", "as_json", is_flag=True, help="Print only the report, as JSON.")
def audit(
    folder: str | None,
    data: str | None,
    clean: str | None,
    data_root: Path | None,
    key_file: Path | None,
    model: str | None,
    learners: str | None,
    recipe: str | None,
    epochs: int | None,
    n: int | None,
    fractions: str | None,
    seeds: int,
    seed: int,
    device: str,
    out: Path | None,
    resume: bool,
    about: Path | None,
    as_json: bool,
) -> int:
    """Find out what can be learnt from a published set after all.

    \b
    robustkit unlearn make --method cuda --data fashion-mnist --key-file my.key --out DIR
    robustkit unlearn audit DIR --key-file my.key --out AUDIT

    Every learner of a battery is trained on the published images and, beside them, on their
    originals. The verdict is the clean accuracy of the best one, measured on test images by which
    it was not chosen. Each finished training is kept in AUDIT.
    """  # noqa: D301
    if (folder is None) == (data is None):
        raise BadInput("Give the published set once: robustkit unlearn audit DIR.")
    request = Request(
        data=folder or data or "",
        clean=clean,
        root=data_root,
        key_file=key_file,
        model=model,
        learners=learners,
        recipe=recipe,
        epochs=epochs,
        n=n,
        fractions=fractions,
        seed=seed,
        seeds=seeds,
        device=device,
        out=out,
        resume=resume,
        about=about,
    )
    return audited(request, as_json=as_json)
