"""`robustkit defend multi-resolution`."""

from typing import TYPE_CHECKING, Any

import click

from robustkit import registry
from robustkit.cli.defend_crossmax import CONTROLS, rule_of
from robustkit.cli.lesson import Lesson, learning
from robustkit.cli.members import check_members, listed, recipe_of, tell_verdict
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.defenses import Aggregation, MultiResolution

# So many versions of an image, each half as large as the one before.
_VERSIONS = 4
_STACK = "stack."


@click.command("multi-resolution")
@click.option("--model", required=True, help="A saved directory, or the name of a trained one.")
@click.option("--resolutions", help="Comma-separated heights.  [default: four, each half as high]")
@click.option("--layers", help="Comma-separated modules that get heads.  [default: up to four]")
@click.option("--rank", type=int, help="Which value of each class is taken.  [default: the median]")
@click.option("--keep-ties", is_flag=True, help="Let the first class win exact ties.")
@click.option(
    "--control", type=click.Choice(CONTROLS), help="Ask the members by this plain rule instead."
)
@click.option("--light", is_flag=True, help="Learn from images that one step of FGSM has changed.")
@click.option("--threat", help="For --light.  [default: the saved model's, else linf]")
@click.option("--eps", help="Radius for --light: a number or a fraction such as 8/255.")
@learning(epochs=6, lr=1e-2)
def multi_resolution(
    model: str,
    resolutions: str | None,
    layers: str | None,
    rank: int | None,
    keep_ties: bool,
    control: str | None,
    light: bool,
    threat: str | None,
    eps: str | None,
    lesson: Lesson,
) -> int:
    """Make an ensemble of one network that sees drawn versions of its input (CrossMax).

    \b
    robustkit defend multi-resolution --model A --data fashion-mnist --out DIR
    robustkit evaluate --model DIR --data fashion-mnist --eps 0.1

    A copy of the network learns to see stacks of four resolutions, then heads learn on its inner
    layers; heads and network are the members. Answers are drawn anew each time: evaluate averages
    over draws, attacks stand-ins as well and scores on fresh draws, which takes long. --lr 3.3e-5
    suits large pretrained networks. --set sets the rest: --set stack.jitter=2, --set pooled=false.
    """  # noqa: D301
    lesson.check_places([model])
    check_members([model])
    recipe = recipe_of(model)
    rule = rule_of(control, rank, keep_ties=keep_ties, temperatures=None)
    from robustkit import models
    from robustkit.cli.origin import Origin
    from robustkit.defenses.ensembles import options

    origin = Origin.of(model)
    seed = lesson.seed_after(origin)
    adversary = origin.threat(threat, eps)
    images = lesson.images(origin)
    heights = _halves(images.shape[1]) if resolutions is None else _numbers(resolutions)
    defense = _defense(rule, heights, listed(layers or ""), lesson.table(), light=light)
    networks = [models.load(model)]
    made = lesson.protected(defense, networks, images, adversary, seed)
    own: dict[str, Any] = {
        "name": "multi-resolution",
        "stack": options(defense.stack),
        "layers": list(made.layers),
    }
    models.save(
        made.cpu(),
        lesson.out,
        spec="defenses:multi-resolution",
        arguments=defense.arguments(recipe, made, shape=images.shape),
        about={**origin.about, "defense": {**own, "model": model, "data": images.spec}},
    )
    name = control or "crossmax"
    click.echo(f"{lesson.out}: {name} of {len(made.layers)} heads and their network")
    tell_verdict(lesson.out, origin, images.spec, origin.threat_words(threat, eps))
    return 0


def _defense(
    rule: "Aggregation",
    heights: list[int],
    layers: list[str],
    table: dict[str, Any],
    *,
    light: bool,
) -> "MultiResolution":
    from robustkit.defenses import MultiResolutionStack
    from robustkit.training.options import build

    stack = {key.removeprefix(_STACK): table.pop(key) for key in [*table] if key[:6] == _STACK}
    kind: type[MultiResolution] = registry.find("defenses", "multi-resolution").load()
    return build(
        kind,
        {**table, "layers": layers, "light": light},
        where="multi-resolution",
        given={
            "stack": build(MultiResolutionStack, {"resolutions": heights, **stack}, where="stack"),
            "aggregation": rule,
        },
    )


def _halves(height: int) -> list[int]:
    return [-(-height // 2**number) for number in range(_VERSIONS)]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise BadInput(f"--resolutions {text!r} is no list of numbers, such as 28,14,7.") from None
