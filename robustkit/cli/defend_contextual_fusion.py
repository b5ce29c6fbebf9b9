"""`robustkit defend contextual-fusion`."""

import click

from robustkit.cli.lesson import Lesson, learning
from robustkit.cli.members import check_members, listed, recipe_of, tell_verdict


@click.command("contextual-fusion")
@click.option(
    "--members", required=True, help="Two: the network of contexts, then that of objects."
)
@learning(epochs=5, lr=1e-2)
def contextual_fusion(members: str, lesson: Lesson) -> int:
    """Put one head on the features of two differently trained networks.

    \b
    robustkit defend contextual-fusion --members PLACES,OBJECTS --data fashion-mnist --out DIR
    robustkit evaluate --model DIR --data fashion-mnist --eps 0.1

    The networks stay as they are; a regularised head learns on what both see in the same image.
    --set penalties=[0.001,0.1] sets the price of weights that read the first and the second. Where
    there is no network of contexts, see the documentation for a small substitute.
    """  # noqa: D301
    specs = listed(members)
    lesson.check_places(specs)
    check_members(specs)
    recipes = [recipe_of(spec) for spec in specs]
    from robustkit import models
    from robustkit.cli.origin import Origin
    from robustkit.defenses import ContextualFusion
    from robustkit.defenses.ensembles import options
    from robustkit.training.options import build

    origin = Origin.of(specs[-1] if specs else "")
    seed = lesson.seed_after(origin)
    defense = build(ContextualFusion, lesson.table(), where="contextual-fusion")
    images = lesson.images(origin)
    networks = [models.load(spec) for spec in specs]
    made = lesson.protected(defense, networks, images, origin.threat(None, None), seed)
    own = {"name": "contextual-fusion", **options(defense)}
    models.save(
        made.cpu(),
        lesson.out,
        spec="defenses:contextual-fusion",
        arguments=defense.arguments(recipes, classes=images.classes, shape=images.shape),
        about={**origin.about, "defense": {**own, "members": specs, "data": images.spec}},
    )
    click.echo(f"{lesson.out}: contextual fusion of {' and '.join(specs)}")
    tell_verdict(lesson.out, origin, images.spec, origin.threat_words(None, None))
    return 0
