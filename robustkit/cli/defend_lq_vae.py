"""`robustkit defend lq-vae`."""

import click

from robustkit.cli.lesson import Lesson, learning
from robustkit.cli.members import check_members, recipe_of, tell_verdict


@click.command()
@click.option("--model", required=True, help="A saved directory, or the name of a trained one.")
@learning(epochs=10, lr=5e-3)
def lq_vae(model: str, lesson: Lesson) -> int:
    """Put a filter with a quantised code in front of a classifier (LQ-VAE).

    \b
    robustkit defend lq-vae --model A --data fashion-mnist --out DIR
    robustkit evaluate --model DIR --data fashion-mnist --eps 0.1

    The filter learns to give images back and never sees the classifier. Gradients do not pass its
    code, so that attacks on the model itself find nothing: evaluate attacks stand-ins that let them
    pass, the worst case counts, and flags say what misleads. It costs clean accuracy, too: compare
    with evaluate --model A. --set sets what `robustkit show lq-vae` lists.
    """  # noqa: D301
    lesson.check_places([model])
    check_members([model])
    recipe = recipe_of(model)
    from robustkit import models
    from robustkit.cli.origin import Origin
    from robustkit.defenses import LQVAE
    from robustkit.defenses.ensembles import options
    from robustkit.training.options import build

    origin = Origin.of(model)
    seed = lesson.seed_after(origin)
    defense = build(LQVAE, lesson.table(), where="lq-vae")
    images = lesson.images(origin)
    networks = [models.load(model)]
    made = lesson.protected(defense, networks, images, origin.threat(None, None), seed)
    own = {"name": "lq-vae", **options(defense), "bound": made.filtering.bound()}
    models.save(
        made.cpu(),
        lesson.out,
        spec="defenses:lq-vae",
        arguments=defense.arguments(recipe, channels=images.shape[0]),
        about={**origin.about, "defense": {**own, "model": model, "data": images.spec}},
    )
    click.echo(
        f"{lesson.out}: lq-vae before {model}; its means move at most {own['bound']:.3g} times as "
        "far as the image, in l2"
    )
    tell_verdict(lesson.out, origin, images.spec, origin.threat_words(None, None))
    return 0
