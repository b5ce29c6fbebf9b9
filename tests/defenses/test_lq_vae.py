"""The filter's bound and code, which gradients pass it, saving, and what an evaluation shows."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import data, evaluate, models
from robustkit.attacks import PGD
from robustkit.defenses import LQVAE, CrossMaxEnsemble, Filtered, LipschitzFilter
from robustkit.defenses.lq_vae import Reconstruction
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch
from robustkit.evaluation import adaptive, draws
from robustkit.randomness import Streams
from robustkit.threat_models import NO_NUMBER, Output
from robustkit.training import AdamW, OneCycle, Trainer
from tests.defenses.members import members, trained
from tests.evaluation.victims import digits, network, threat

SMALL: dict[str, Any] = {"width": 12, "codes": 64, "lipschitz": 4.0}


def images(n: int = 8) -> Tensor:
    return digits(n).inputs(torch.arange(n))


def streams(n: int, seed: int = 0) -> Streams:
    return Streams.of(seed=seed, ids=torch.arange(n))


def learning(**changes: Any) -> Trainer:  # noqa: ANN401
    options: dict[str, Any] = {"epochs": 12, "batch_size": 40, **changes}
    return Trainer(optimizer=AdamW(lr=1e-2, weight_decay=0.0), schedule=OneCycle(), **options)


@functools.cache
def learnt() -> LipschitzFilter:
    """A filter of digits; do not change it."""
    train = data.load("digits", split="train", n=800)
    own = Streams.of(seed=0, ids=train.ids)
    defense = LQVAE(**SMALL)
    made = defense.protect([trained(0)], train, threat(), trainer=learning(), streams=own)
    assert not made.training
    return made.filtering


def filtered(*, sampled: bool = False) -> Filtered:
    return Filtered(trained(0), learnt(), sampled=sampled).eval()


def accuracy(model: nn.Module, n: int = 200) -> float:
    labels = digits(n).labels
    return float((model(images(n)).argmax(1) == labels).float().mean())


# --- the filter -----------------------------------------------------------------------------------


def steepest(filtering: LipschitzFilter, start: Tensor, steps: int = 40) -> float:
    """The largest ratio of changes that gradient ascent finds from each image: a hard opponent."""
    change = 0.01 * streams(len(start)).normal(tuple(start.shape[1:]))
    best = torch.zeros(len(start))
    for _ in range(steps):
        change = change.detach().requires_grad_()
        moved = filtering.encode(start + change)[0] - filtering.encode(start)[0]
        ratio = moved.flatten(1).norm(dim=1) / change.flatten(1).norm(dim=1)
        (slope,) = torch.autograd.grad(ratio.sum(), change)
        best = best.maximum(ratio.detach())
        size = change.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        step = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = change.detach() + 0.3 * size * step
    return float(best.max())


def test_the_means_move_no_further_than_the_bound_says() -> None:
    for filtering in (learnt(), LipschitzFilter(channels=1, lipschitz=0.5, seed=3).eval()):
        bound = filtering.bound()
        assert bound == pytest.approx(filtering.lipschitz, rel=0.1)
        first, second = images(60), images(60).roll(1, 0)
        noise = 0.1 * streams(60).normal((1, 8, 8))
        for other in (second, first + noise, 1 - first, torch.zeros_like(first)):
            moved = (filtering.encode(first)[0] - filtering.encode(other)[0]).flatten(1).norm(dim=1)
            assert bool((moved <= bound * (first - other).flatten(1).norm(dim=1) + 1e-5).all())
        found = steepest(filtering, images(20))
        # Within the bound, and not so far below it that any number would do.
        assert 0.04 * bound < found <= bound


def test_the_bound_of_a_layer_is_that_of_the_layer_as_a_matrix() -> None:
    filtering = learnt()
    for layer, shape, overlap in (
        (filtering.first, (1, 12, 12), 2),
        (filtering.mean, (24, 4, 4), 1),
    ):
        # What it makes of each unit vector.
        units = torch.eye(math.prod(shape)).view(-1, *shape)
        matrix = (layer(units) - layer(torch.zeros(1, *shape))).flatten(1).detach()
        kernel = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        exact = torch.linalg.matrix_norm(matrix, ord=2)
        assert 0.5 * kernel <= exact <= overlap * kernel + 1e-5


def test_weights_that_are_not_divided_break_the_bound() -> None:
    filtering = LipschitzFilter(channels=1, seed=0)
    with torch.no_grad():
        for layer in (filtering.first, filtering.second, filtering.mean):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
            layer.weight *= 3
    assert filtering.bound() > 20
    assert steepest(filtering.eval(), images(20)) > 1.05


def test_the_code_has_two_values_and_its_window() -> None:
    latent = torch.tensor([0.0, 0.05, -0.0999, 0.1001, -0.5, 3.0, 0.1])
    filtering = LipschitzFilter(channels=1, window=0.1)
    code = filtering.code(latent, "hard")
    assert code.tolist()[:6] == [1, 1, 1, -1, -1, -1]
    assert set(filtering.code(torch.linspace(-1, 1, 2001), "hard").tolist()) == {-1.0, 1.0}
    exact = LipschitzFilter(channels=1, window=0.5).code(torch.tensor([0.5, -0.5]), "hard")
    assert exact.tolist() == [1.0, 1.0]
    soft = filtering.code(latent, "soft")
    assert bool((soft.sign() == code)[:6].all())
    assert bool((soft.abs() < 1).all())
    torch.testing.assert_close(soft[0], torch.tensor(5.0 / 6))


def test_gradients_stop_at_the_code_unless_they_pass_straight_through() -> None:
    filtering = LipschitzFilter(channels=1)
    latent = torch.tensor([0.02, -0.08, 0.2, -0.6], requires_grad=True)
    slopes = {}
    for kind in ("hard", "straight-through", "soft"):
        code = filtering.code(latent, kind)
        (slopes[kind],) = torch.autograd.grad(code.sum(), latent)
    assert not bool(slopes["hard"].any())
    assert torch.equal(slopes["straight-through"], slopes["soft"])
    # The slope of x / (1 + |x|) at 500 (0.01 - z^2).
    inside = 500 * (0.01 - latent.detach().square())
    torch.testing.assert_close(slopes["soft"], -1000 * latent.detach() / (1 + inside.abs()) ** 2)
    hard, through = (filtering.code(latent, kind) for kind in ("hard", "straight-through"))
    torch.testing.assert_close(hard, through)


def test_the_average_code_is_that_of_many_draws_and_has_its_slope() -> None:
    filtering = learnt()
    mean, log_variance = (part.detach() for part in filtering.encode(images(2)))
    average = filtering.average(mean, log_variance)
    many = 4000
    own = Streams.of(seed=0, ids=torch.arange(many))
    latent = filtering.drawn(mean[:1], log_variance[:1], own)
    sampled = filtering.code(latent, "hard")
    # Within five standard errors of a mean of so many signs.
    assert float((sampled.mean(0) - average[0]).abs().max()) < 5 / many**0.5
    assert float(average.abs().max()) <= 1
    given = images(2).requires_grad_()
    smooth = filtering(given, kind="average")
    through = filtering(given, streams(2), kind="average-through")
    torch.testing.assert_close(through, filtering(given, streams(2)))
    assert not torch.allclose(through, smooth)
    slopes = [torch.autograd.grad(one.sum(), given)[0] for one in (smooth, through)]
    assert all(bool((slope != 0).any()) for slope in slopes)


def test_what_is_drawn_lies_half_a_window_around_the_mean() -> None:
    filtering = LipschitzFilter(channels=1, window=0.2)
    mean = torch.full((400, 3, 2, 2), 0.7)
    drawn = filtering.drawn(mean, torch.full_like(mean, 2.0), streams(400))
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.1 * math.e, rel=0.05)
    again = filtering.drawn(
        mean[:5], torch.full_like(mean[:5], 2.0), streams(400).take([0, 1, 2, 3, 4])
    )
    assert torch.equal(again, drawn[:5])


def test_it_learns_to_give_images_back() -> None:
    new = LipschitzFilter(channels=1, width=8, codes=32)
    error = [(one(images(100)) - images(100)).square().mean() for one in (new, learnt())]
    spread = images(100).var(0, unbiased=False).mean()
    assert error[1] < 0.4 * spread < error[0]


def test_images_that_it_cannot_take() -> None:
    filtering = LipschitzFilter(channels=3)
    assert filtering(torch.rand(2, 3, 12, 20)).shape == (2, 3, 12, 20)
    for shape in ((2, 3, 10, 12), (2, 1, 12, 12), (3, 12, 12)):
        with pytest.raises(ShapeMismatch, match="sides that 4 divides"):
            filtering(torch.zeros(shape))


# --- the filtered classifier ----------------------------------------------------------------------


def test_the_classifier_sees_what_comes_back_and_still_knows_it() -> None:
    model = filtered()
    assert torch.equal(model(images()), trained(0)(learnt()(images())))
    assert accuracy(model) > accuracy(trained(0)) - 0.15
    assert not model.stochastic


def test_it_draws_by_the_streams_of_the_examples() -> None:
    model = filtered(sampled=True)
    assert model.stochastic
    one, same, other = (
        model.answer(images(), streams=streams(8, seed)).logits for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    alone = model.answer(images()[3:4], streams=streams(8).take([3])).logits
    torch.testing.assert_close(alone, one[3:4])
    assert torch.equal(model(images()), model(images()))
    with pytest.raises(BadInput, match="give one stream per image"):
        model.answer(images())


def test_stand_ins_let_gradients_pass_and_share_everything() -> None:
    model, given = filtered(), images().requires_grad_()
    named: dict[str, Any] = dict(model.surrogates())
    assert list(named) == ["unquantised", "straight-through", "identity", "classifier"]
    assert named["classifier"] is model.classifier
    own = model(given)
    slopes = {
        name: torch.autograd.grad(one(given).logsumexp(1).sum(), given)[0]
        for name, one in {"itself": model, **named}.items()
    }
    assert not bool(slopes.pop("itself").any())
    assert all(bool((slope != 0).flatten(1).any(1).all()) for slope in slopes.values())
    torch.testing.assert_close(named["straight-through"](given), own)
    torch.testing.assert_close(named["identity"](given), own)
    assert not torch.allclose(named["unquantised"](given), own)
    # Around the filter: the classifier's gradient where the filter has put the image.
    there = learnt()(images()).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.classifier(there).logsumexp(1).sum(), there)
    torch.testing.assert_close(slopes["identity"], slope)
    ids = {id(parameter) for parameter in model.parameters()}
    assert all(id(one) in ids for stand in named.values() for one in stand.parameters())


def test_stand_ins_draw_with_the_model() -> None:
    model, own = filtered(sampled=True), streams(8)
    named: dict[str, Any] = dict(model.surrogates())
    drawn = model.answer(images(), streams=own).logits
    assert next(iter(named)) == "average"
    for name in ("straight-through", "identity"):
        assert named[name].stochastic
        torch.testing.assert_close(named[name].answer(images(), streams=own).logits, drawn)
    assert not getattr(named["classifier"], "stochastic", False)


class Cautious(nn.Module):
    """Refuses every other image."""

    stochastic = False

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return Output(torch.zeros(len(inputs), 10), rejected=torch.arange(len(inputs)) % 2 == 0)


def test_any_classifier_may_stand_behind_it() -> None:
    ensemble = CrossMaxEnsemble(members()).eval()
    model = Filtered(ensemble, learnt(), sampled=False).eval()
    assert torch.equal(model(images()), ensemble(learnt()(images())))
    named: dict[str, Any] = dict(model.surrogates())
    # Nothing is left that hides a gradient.
    mean = ensemble.votes(learnt()(images())).mean(1)
    torch.testing.assert_close(named["straight-through"](images()), mean)
    torch.testing.assert_close(named["classifier"](images()), ensemble.votes(images()).mean(1))
    refused = Filtered(Cautious(), learnt(), sampled=False).answer(images(4)).rejected
    assert refused is not None
    assert refused.tolist() == [True, False, True, False]


def test_classifiers_and_images_that_cannot_be_defended() -> None:
    train = digits(8)
    own = Streams.of(seed=0, ids=train.ids)

    def protect(models: list[nn.Module], images: Any = train, **options: Any) -> Filtered:  # noqa: ANN401
        trainer = learning(epochs=1)
        return LQVAE(**options).protect(models, images, threat(), trainer=trainer, streams=own)

    with pytest.raises(BadInput, match="one model at a time; 2 were given"):
        protect([trained(0), trained(1)])
    deployed = network()
    deployed.labels_only = True  # type: ignore[assignment]
    with pytest.raises(BadInput, match="labels and nothing else"):
        protect([deployed])
    spoilt = trained(1)
    with torch.no_grad():
        spoilt.get_submodule("linear").get_parameter("bias")[4] = torch.nan
    with pytest.raises(BadInput, match="The classifier answers NaN"):
        protect([spoilt])
    with pytest.raises(BadInput, match="answers 5 classes, and the data has 10"):
        protect([network(classes=5)], data.load("digits", n=40))
    colour = data.LabelledImages.from_tensors(torch.rand(8, 3, 8, 8), train.labels)
    with pytest.raises(BadInput, match="The classifier cannot take images of 3 x 8 x 8"):
        protect([trained(0)], colour)
    odd = data.LabelledImages.from_tensors(torch.rand(8, 1, 10, 10), train.labels)
    with pytest.raises(BadInput, match=r"LQVAE cannot filter these images.*4 divides"):
        protect([trained(0)], odd)
    for options in ({"width": 0}, {"codes": 0}, {"lipschitz": 0.0}, {"window": -1.0}, {"kl": -1.0}):
        with pytest.raises(BadInput):
            LQVAE(**options)
    nothing = Filtered(spoilt, learnt(), sampled=False).eval().answer(images(2))
    assert nothing.labels.tolist() == [NO_NUMBER, NO_NUMBER]


def test_the_classifier_is_not_changed_and_never_seen() -> None:
    train = data.load("digits", split="train", n=64)
    own = Streams.of(seed=0, ids=train.ids)
    fingerprints = []
    for classifier in (trained(0), trained(1)):
        before = models.fingerprint(classifier)
        made = LQVAE(**SMALL).protect(
            [classifier], train, threat(), trainer=learning(epochs=1), streams=own
        )
        assert models.fingerprint(classifier) == before
        fingerprints.append(models.fingerprint(made.filtering))
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("sampled", [True, False])
def test_a_saved_filter_comes_back_bit_for_bit(sampled: bool, tmp_path: Path) -> None:
    defense = LQVAE(width=4, codes=8, sampled=sampled, window=0.2)
    saved = defense.assembled(models.load("cnn", channels=1, seed=5), 1, seed=3)
    # Training moves what a norm is estimated with, too.
    saved.train()
    saved.filtering(images())
    saved.eval()
    recipe = models.recipe("cnn", {"classes": 10, "channels": 1})
    arguments = defense.arguments(recipe, channels=1)
    models.save(saved, tmp_path, spec="defenses:lq-vae", arguments=arguments)
    back = models.load(str(tmp_path))
    assert isinstance(back, Filtered)
    assert back.sampled is sampled
    assert torch.equal(back(images(20)), saved(images(20)))
    asked = (one.answer(images(20), streams=streams(20)).logits for one in (back, saved))
    assert torch.equal(*asked)
    made: dict[str, Any] = {"kind": "defenses", "entry": "lq-vae", "arguments": arguments}
    wrong: dict[str, Any] = {
        "classifier": {"kind": "code", "entry": "os:system", "arguments": {}},
        "options": {"width": "x"},
        "channels": "x",
    }
    for key, value in wrong.items():
        with pytest.raises((BadInput, CorruptFile)):
            models.rebuild({**made, "arguments": {**arguments, key: value}})


# --- what an evaluation shows ---------------------------------------------------------------------


def test_a_naive_evaluation_is_told_what_it_missed() -> None:
    report = evaluate(
        filtered(), digits(40), threat(), attacks=[PGD(steps=10, loss="margin")], batch_size=40
    )
    found = report.accuracies
    assert found.surrogate is not None
    # Random starts break a few.
    assert found.direct.value > report.clean_accuracy.value - 0.15
    assert found.surrogate.value < found.direct.value - 0.2
    assert report.robust_accuracy.value <= found.surrogate.value
    severities = {flag.id: flag.severity for flag in report.flags}
    assert severities["F2"] == severities["F3"] == "void"
    through = {row.through for row in report.attacks}
    names = ("unquantised", "straight-through", "identity", "classifier")
    assert through == {"direct", "bpda", "warm", *(f"surrogate:{name}" for name in names)}
    assert report.violations == 0


class Hidden(nn.Module):
    """A model that does not name its stand-ins, as a careless author would hand it in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits


def test_flags_fire_where_the_stand_ins_are_hidden() -> None:
    report = evaluate(
        Hidden(filtered()), digits(40), threat(), attacks=[PGD(steps=20)], batch_size=40
    )
    assert report.robust_accuracy.value > report.clean_accuracy.value - 0.2
    void = {flag.id for flag in report.flags if flag.severity == "void"}
    assert {"F3", "F5"} <= void


def test_an_evaluation_averages_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (adaptive, draws):
        monkeypatch.setattr(module, "RUNGS", (2, 3, 4))
    report = evaluate(
        filtered(sampled=True), digits(4), threat(), attacks=[PGD(steps=2)], batch_size=4
    )
    assert {"F1", "F3"} <= {flag.id for flag in report.flags}
    assert {row.through for row in report.attacks} >= {"direct", "eot", "bpda", "warm"}
    averages = {row.through for row in report.attacks if row.options.get("average") == 2}
    assert {"surrogate:straight-through", "surrogate:average"} <= averages
    assert report.draws is not None


def test_the_loss_is_what_it_says() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.1, -0.2, 0.0, 1.0]])
    batch = data_batch(torch.full((1, 1, 2, 2), 0.25))
    loss = Reconstruction(kl=2.0)(Fixed(rows), batch)
    spread = (0.01 + 1 - 1 - 0 + 0.04 + torch.tensor(1.0).exp() - 1 - 1) / 2 / 2
    torch.testing.assert_close(loss, 0.0625 + 2.0 * spread)
    assert float(batch.notes["squared_error"]) == pytest.approx(0.0625)


class Fixed(nn.Module):
    """Answers the same rows to everything."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, _inputs: Tensor, _streams: Streams) -> Tensor:
        return self.rows


def data_batch(inputs: Tensor) -> Any:  # noqa: ANN401
    from robustkit.training import Batch

    count = len(inputs)
    ids = torch.arange(count)
    labels = torch.zeros(count, dtype=torch.int64)
    return Batch(inputs=inputs, labels=labels, ids=ids, epoch=0, step=0, streams=streams(count))
