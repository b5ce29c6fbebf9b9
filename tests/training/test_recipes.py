"""Recipes: each one trains two steps of its real architecture; bad ones are told."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustkit import evaluate, models, registry
from robustkit.attacks import PGD
from robustkit.data import LabelledImages, load
from robustkit.errors import BadInput, CorruptFile, MissingFile, UnknownName
from robustkit.training import SGD, AdamW, Cosine, Crop, Flip, RobustAccuracy, Step, Trainer
from robustkit.training import recipe as recipes
from robustkit.training.losses import AWP, TRADES, PGDTraining
from robustkit.training.losses.distillation import Distillation
from robustkit.training.publishing import prepare, publish, record
from robustkit.training.recipe import Recipe
from tests.training.tiny import Smooth, equal, tiny_data

SHAPES = {
    "digits": (1, 8, 8),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}
# Minutes on a busy CPU.
LARGE = ("wrn-28-10", "wrn-34-10")


def shaped(data: str, n: int) -> LabelledImages:
    """Noise in the shape of a data set, ten classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, *SHAPES[data], generator=generator)
    names = [str(number) for number in range(10)]
    return LabelledImages.from_tensors(
        images, torch.arange(n) % 10, spec=data, split="train", class_names=names
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if any(word in name for word in LARGE) else ())
        for name in registry.entries("recipes")
    ],
)
def test_every_recipe_trains_two_steps_saves_and_reloads(name: str, tmp_path: Path) -> None:
    recipe = recipes.load(name)
    assert recipe.table["data"] in SHAPES
    if recipe.table["data"].startswith("cifar"):
        assert recipe.table["published"]["source"]
    small = {"batch_size": 2, "epochs": 1, "max_steps": 2}
    selection = {"selection": {"steps": 1}} if "selection" in recipe.table else {}
    loss = dict(recipe.table["loss"])
    if loss["name"] != "cross-entropy":
        loss["steps"] = 1
    recipe = recipe.changed(
        {
            "trainer": small,
            "runtime": {"device": "cpu"},
            "loss": loss,
            **selection,
            **({"awp": {"start_epoch": 0}} if "awp" in recipe.table else {}),
        }
    )
    data = shaped(recipe.table["data"], 10)
    model, arguments = prepare(
        recipe.table["model"], recipe.table.get("model_arguments", {}), data, seed=0
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = recipe.trainer(data).fit(model, data, recipe.loss())
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    about = record(recipe, recipe.threat(), data, result)
    publish(model, tmp_path, spec=recipe.table["model"], arguments=arguments, about=about)
    again = models.load(str(tmp_path))
    assert equal(model, again)
    image = data.inputs([0])
    assert torch.equal(again(image), model(image))
    description = json.loads((tmp_path / "robustkit.json").read_text())["about"]
    assert description["training"]["recipe"]["loss"] == recipe.table["loss"]
    assert description["threat"]["perturbation"]["radius"] == recipe.threat().allowed.radius


def test_names_and_files_agree() -> None:
    files = {file.stem for file in Path(recipes.__file__).parent.glob("recipes/*.toml")}
    assert files == set(registry.entries("recipes"))
    for name, entry in registry.entries("recipes").items():
        assert recipes.load(name).table["summary"] == entry.summary
        assert entry.summary in (entry.load().__doc__ or "")


def test_a_recipe_says_everything() -> None:
    recipe = Recipe(
        {
            "threat": {"spec": "l2", "eps": "1/2"},
            "loss": {"name": "trades", "beta": 3, "joint": False},
            "awp": {"gamma": 0.005, "start_epoch": 2},
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "schedule": {"name": "step", "milestones": [3, 5]},
            "augmentation": [{"name": "crop", "padding": 2}, {"name": "flip"}],
            "averaging": {"decay": 0.99},
            "selection": {"n": 9999, "steps": 7, "every": 2},
            "trainer": {"epochs": 6, "clip": 1, "seed": 4},
            "runtime": {"device": "cpu", "dtype": "bf16"},
        }
    )
    loss = recipe.loss()
    assert isinstance(loss, AWP)
    assert isinstance(loss.loss, TRADES)
    assert (loss.gamma, loss.loss.beta, loss.loss.joint) == (0.005, 3.0, False)
    assert loss.loss.threat.allowed.norm == "l2"
    trainer = recipe.trainer(tiny_data(50))
    assert trainer.optimizer == AdamW(lr=1e-3)
    assert trainer.schedule == Step(milestones=(3, 5))
    assert list(trainer.augmentation) == [Crop(padding=2), Flip()]
    assert trainer.selection is not None
    assert (trainer.selection.n, trainer.selection.every) == (5, 2)
    assert trainer.selection.score == RobustAccuracy(threat=recipe.threat(), steps=7)
    assert (trainer.epochs, trainer.clip, trainer.seed) == (6, 1.0, 4)
    assert trainer.runtime.dtype == "bf16"


def test_changes_keep_what_still_fits() -> None:
    recipe = Recipe({"loss": {"name": "pgd", "steps": 5}, "trainer": {"epochs": 3, "seed": 1}})
    changed = recipe.changed({"loss": {"name": "pgd", "step_size": 0.5}, "trainer": {"epochs": 9}})
    assert changed.table["loss"] == {"name": "pgd", "steps": 5, "step_size": 0.5}
    assert changed.table["trainer"] == {"epochs": 9, "seed": 1}
    assert recipe.changed({"loss": {"name": "trades"}}).table["loss"] == {"name": "trades"}
    assert recipe.table["trainer"]["epochs"] == 3


def test_distillation_gets_its_teacher() -> None:
    recipe = Recipe({"loss": {"name": "distillation", "temperature": 2}})
    with pytest.raises(BadInput, match="teacher"):
        recipe.loss()
    loss = recipe.loss(Smooth())
    assert isinstance(loss, Distillation)
    assert loss.temperature == 2


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"optimiser": {}}, "unknown optimiser"),
        ({"loss": "pgd"}, "must be a table"),
        ({"augmentation": {"name": "flip"}}, "must be a list"),
        ({"loss": {"name": "pdg"}}, r"No loss is called 'pdg'. Did you mean pgd"),
        ({"loss": {"name": "pgd", "beta": 1}}, "loss pgd has no beta. Allowed: steps"),
        ({"loss": {"name": "pgd", "steps": 2.5}}, "loss pgd.steps is 2.5; it must be a whole"),
        ({"loss": {"name": "pgd", "steps": True}}, "must be a whole number"),
        ({"loss": {"name": "pgd", "start": "zero"}}, "one of uniform, gaussian, clean"),
        ({"loss": {"name": "pgd", "steps": 0}}, "at least 1 step"),
        ({"loss": {"name": "pgd", "threat": "l2"}}, "has no threat"),
        ({"threat": {"spec": "linf", "eps": "8/0"}}, "divides by zero"),
        ({"threat": {"spec": "lin"}}, "linf"),
        ({"threat": {"radius": 1}}, "unknown radius. Allowed: spec, eps"),
        ({"awp": {"gama": 1}}, "awp has no gama"),
        ({"optimizer": {"lr": 0.1}}, "optimizer needs a name, one of: sgd, adamw"),
        ({"optimizer": {"name": "adam"}}, "Did you mean adamw"),
        ({"optimizer": {"name": "sgd", "lr": "fast"}}, "it must be a number or a fraction"),
        ({"optimizer": {"name": "sgd", "lr": -1}}, "above 0"),
        ({"schedule": {"name": "step"}}, "schedule step needs milestones"),
        ({"schedule": {"name": "step", "milestones": 3}}, "a list, each a whole number"),
        ({"schedule": {"name": "plateau"}}, "follows a held-out score"),
        ({"schedule": {"name": "cosine", "warmup": -1}}, "0 or more"),
        ({"augmentation": [{"name": "rotate"}]}, "rotate"),
        ({"augmentation": ["flip"]}, "each must be a table"),
        ({"threat": {"spec": "linf", "eps": float("inf")}}, "no JSON.*finite"),
        ({"published": {"day": datetime.date(2020, 1, 1)}}, "no JSON"),
        ({"averaging": {"decay": 2}}, "lie in"),
        ({"selection": {"steps": 0}}, "at least 1 step"),
        ({"trainer": {"epochs": 0}}, "at least 1"),
        ({"trainer": {"out": "x"}}, "trainer has no out"),
        ({"runtime": {"dtype": "fp16"}}, "one of fp32, bf16"),
    ],
)
def test_bad_recipes_are_told(table: dict[str, Any], said: str) -> None:
    def use() -> None:
        recipe = Recipe(table)
        recipe.loss()
        recipe.trainer(tiny_data())

    with pytest.raises(BadInput, match=said):
        use()


def test_files_of_recipes(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text('data = "digits"\n[loss]\nname = "pgd"\nsteps = 3\n')
    loss = recipes.load(str(good)).loss()
    assert isinstance(loss, PGDTraining)
    assert loss.steps == 3
    (tmp_path / "bad.toml").write_text("data = \n")
    with pytest.raises(CorruptFile, match="cannot be read as TOML"):
        recipes.load(str(tmp_path / "bad.toml"))
    with pytest.raises(MissingFile):
        recipes.load(str(tmp_path / "none.toml"))
    with pytest.raises(UnknownName, match="digits-pgd"):
        recipes.load("digits")


@pytest.mark.parametrize(
    ("data", "model", "loss", "name"),
    [
        ("fashion-mnist", "cnn", "trades", "fashion-mnist-trades"),
        ("fashion-mnist", None, None, "fashion-mnist-pgd"),
        ("cifar10", "wrn-34-10", "trades", "cifar10-wrn-34-10-trades"),
        ("fashion-mnist", "cnn", "mart", None),
        ("fashion-mnist", "resnet-18", None, None),
        ("mine.npz", None, None, None),
        (None, None, None, None),
    ],
)
def test_words_find_the_recipe_made_for_them(
    data: str | None, model: str | None, loss: str | None, name: str | None
) -> None:
    table = recipes.DEFAULTS if name is None else recipes.load(name).table
    assert recipes.for_words(data=data, model=model, loss=loss).table == table


def test_defaults_make_a_trainer() -> None:
    trainer = Recipe(recipes.DEFAULTS).trainer(tiny_data())
    assert isinstance(trainer, Trainer)
    assert isinstance(trainer.optimizer, SGD)
    assert not isinstance(trainer.schedule, Cosine)


def test_pgd_training_makes_digits_robust() -> None:
    """Judged by an evaluation, beside standard training with everything else the same."""
    found = {}
    digits, test = load("digits", split="train"), load("digits").first(120)
    for name in ("pgd", "cross-entropy"):
        recipe = recipes.load("digits-pgd").changed(
            {"loss": {"name": name}, "trainer": {"epochs": 6}, "runtime": {"device": "cpu"}}
        )
        if name == "pgd":
            recipe = recipe.changed({"loss": {"name": "pgd", "steps": 3, "step_size": 0.75}})
        model, _ = prepare("resnet-8", {}, digits, seed=0)
        recipe.changed({"selection": {"steps": 3}}).trainer(digits).fit(
            model, digits, recipe.loss()
        )
        report = evaluate(model, test, recipe.threat(), attacks=[PGD(steps=20)])
        found[name] = (report.clean_accuracy.value, report.robust_accuracy.value)
    assert found["cross-entropy"][0] > 0.85
    assert found["pgd"][0] > 0.85
    assert found["pgd"][1] > found["cross-entropy"][1] + 0.25
