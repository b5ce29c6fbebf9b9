"""`robustkit defend crossmax`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit import registry
from robustkit.cli.members import check_members, check_out, listed, recipe_of, tell_verdict
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustkit.defenses import Aggregation

CONTROLS = ("mean-logits", "median-logits", "vote")
# Sides of images on which members are tried that do not say what they have learnt from.
_SIDE, _ZOO_SIDE = 32, 224


@click.command()
@click.option(
    "--members", required=True, help="Comma-separated: saved directories, or names of trained ones."
)
@click.option("--rank", type=int, help="Which value of each class is taken.  [default: the median]")
@click.option("--keep-ties", is_flag=True, help="Let the first class win exact ties.")
@click.option("--temperatures", help="Comma-separated: what divides each member's logits.")
@click.option(
    "--control", type=click.Choice(CONTROLS), help="Write this plain rule of the members instead."
)
@click.option("--size", type=int, help="Side of images for a trial.  [default: the members']")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the ensemble."
)
def crossmax(
    members: str,
    rank: int | None,
    keep_ties: bool,
    temperatures: str | None,
    control: str | None,
    size: int | None,
    out: Path,
) -> int:
    """Make one classifier of several trained ones, by agreement (CrossMax).

    \b
    robustkit defend crossmax --members A,B,C --out DIR
    robustkit evaluate --model DIR --data fashion-mnist --eps 0.1

    Nothing is trained. Attacks on CrossMax alone report far too much: evaluate attacks its
    stand-ins as well, the worst case counts, and flags say what misleads. For comparison, write
    the members' plain mean with --control mean-logits.
    """  # noqa: D301
    specs = listed(members)
    if size is not None and size < 1:
        raise BadInput(f"--size is {size}; give the side of the images in pixels, at least 1.")
    check_out(specs, out)
    check_members(specs)
    rule = rule_of(control, rank, keep_ties=keep_ties, temperatures=temperatures)
    rule.check_members(len(specs))
    from robustkit import models
    from robustkit.cli.origin import Origin

    networks = [models.load(spec) for spec in specs]
    recipes = [recipe_of(spec) for spec in specs]
    ensemble = rule.ensemble(networks, _trial(specs[0], recipes[0], networks[0], size))
    name = control or "crossmax"
    from robustkit.defenses.ensembles import options

    about = {"defense": {"name": name, **options(rule), "members": specs}}
    models.save(
        ensemble, out, spec=f"defenses:{name}", arguments=rule.arguments(recipes), about=about
    )
    click.echo(f"{out}: {name} of {len(specs)} members")
    origin = Origin.of(specs[0])
    tell_verdict(out, origin, None, origin.threat_words(None, None))
    return 0


def rule_of(
    control: str | None, rank: int | None, *, keep_ties: bool, temperatures: str | None
) -> "Aggregation":
    """CrossMax, or a plain rule in its place, by the options of a command.

    Raises:
        BadInput: They do not go together, or mean nothing.
    """
    if control is not None and (rank is not None or keep_ties):
        raise BadInput(f"--rank and --keep-ties belong to crossmax, not to {control}.")
    table: dict[str, Any] = {}
    if rank is not None:
        table["rank"] = rank
    if keep_ties:
        table["break_ties"] = False
    if temperatures is not None:
        table["temperatures"] = _numbers(temperatures)
    rule: Aggregation = registry.find("defenses", control or "crossmax").load().of(table)
    return rule


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadInput(f"--temperatures {text!r} is no list of numbers, such as 1,0.8,2.") from None


def _trial(
    spec: str, recipe: "Mapping[str, Any]", network: "nn.Module", size: int | None
) -> "Tensor":
    """A few images of the shape that the first member takes."""
    import torch

    from robustkit.randomness import Streams

    arguments = recipe["arguments"]
    first = next((one for one in network.modules() if isinstance(one, torch.nn.Conv2d)), None)
    channels = arguments.get("channels") or (3 if first is None else first.in_channels)
    zoo = spec.partition(":")[0] in ("torchvision", "timm")
    side = size or arguments.get("size") or (_ZOO_SIDE if zoo else _SIDE)
    return Streams.of(seed=0, ids=torch.arange(4)).uniform((channels, side, side))
