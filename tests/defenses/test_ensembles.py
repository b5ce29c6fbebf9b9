"""Ensembles: what they ask, name and refuse, how they are saved, and what an evaluation shows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate, models
from robustkit.attacks import PGD
from robustkit.defenses import (
    Aggregation,
    CrossMax,
    CrossMaxEnsemble,
    Ensemble,
    MeanLogits,
    MedianLogits,
    Vote,
)
from robustkit.defenses.crossmax import crossmax
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import NO_NUMBER, Output, Patch, ThreatModel
from robustkit.training import Trainer
from tests.defenses.members import members, trained
from tests.evaluation.victims import digits, network, threat

RULES = (CrossMax(), CrossMax(rank=2, break_ties=False), MeanLogits(), MedianLogits(), Vote())


class Noisy(nn.Module):
    """Adds its own noise to what it sees."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.model = trained(0)

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        assert streams is not None
        return Output(self.model(inputs + 0.1 * streams.normal(tuple(inputs.shape[1:]))))


class Cautious(nn.Module):
    """Refuses everything."""

    stochastic = False

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return Output(torch.zeros(len(inputs), 10), rejected=torch.ones(len(inputs)) > 0)


def images(n: int = 8) -> Tensor:
    return digits(n).inputs(torch.arange(n))


@pytest.mark.parametrize("rule", RULES)
def test_an_ensemble_is_its_rule_of_its_members(rule: Aggregation) -> None:
    ensemble = Ensemble(members(), rule).eval()
    votes = torch.stack([member(images()) for member in members()], dim=1)
    assert torch.equal(ensemble.votes(images()), votes)
    assert torch.equal(ensemble(images()), rule(votes))
    assert torch.equal(ensemble.answer(images()).logits, rule(votes))
    assert not ensemble.stochastic


def test_crossmax_by_its_own_name() -> None:
    ensemble = CrossMaxEnsemble(members(), rank=2, break_ties=False, temperatures=(1, 2, 3)).eval()
    votes = torch.stack([member(images()) for member in members()], dim=1)
    expected = crossmax(votes, rank=2, break_ties=False, temperatures=(1, 2, 3))
    assert torch.equal(ensemble(images()), expected)


def test_stand_ins_share_the_members_and_hide_nothing() -> None:
    own = members()
    ensemble = CrossMaxEnsemble(own).eval()
    named = ensemble.surrogates()
    assert list(named) == ["mean", "median", "member-1", "member-2", "member-3"]
    assert named["member-2"] is own[1]
    votes = ensemble.votes(images())
    assert torch.equal(named["mean"](images()), votes.mean(1))
    assert torch.equal(named["median"](images()), votes.median(1).values)
    ids = {id(parameter) for parameter in ensemble.parameters()}
    assert all(id(one) in ids for module in named.values() for one in module.parameters())
    assert Ensemble(own, MeanLogits()).surrogates() == {}
    assert next(iter(Ensemble(own, MedianLogits()).surrogates())) == "mean"
    assert list(Ensemble(own, Vote()).surrogates())[:2] == ["mean", "median"]
    assert len(ensemble.state_dict()) == sum(len(member.state_dict()) for member in own)


def test_stand_ins_of_an_ensemble_of_ensembles_are_plain_all_the_way_down() -> None:
    inner = CrossMaxEnsemble(members()).eval()
    outer = CrossMaxEnsemble([inner, trained(3)]).eval()
    mean = outer.surrogates()["mean"]
    plain = torch.stack([inner.votes(images()).mean(1), trained(3)(images())], dim=1).mean(1)
    torch.testing.assert_close(mean(images()), plain)


def test_random_members_draw_by_the_streams_of_the_examples() -> None:
    ensemble = CrossMaxEnsemble([Noisy(), Noisy(), trained(1)]).eval()
    assert ensemble.stochastic
    streams = Streams.of(seed=0, ids=torch.arange(8))
    votes = ensemble.votes(images(), streams=streams)
    assert torch.equal(votes, ensemble.votes(images(), streams=streams))
    assert not torch.equal(votes[:, 0], votes[:, 1])
    # Foreign code, which knows no streams, always sees the same draws.
    assert torch.equal(ensemble(images()), ensemble(images()))
    one = ensemble.votes(images()[3:4], streams=streams.take([3]))
    torch.testing.assert_close(votes[3:4], one)


def test_members_that_do_not_belong_together_are_refused() -> None:
    few = images(2)
    with pytest.raises(BadInput, match="answer 10, 5 classes"):
        CrossMax().ensemble([trained(0), network(classes=5)], few)
    with pytest.raises(ShapeMismatch, match="answer 10, 5 classes"):
        CrossMaxEnsemble([trained(0), network(classes=5)])(few)
    with pytest.raises(BadInput, match="Members 1 and 3 have the same weights"):
        CrossMax().ensemble([trained(0), trained(1), trained(0)], few)
    with pytest.raises(BadInput, match="Give at least 2"):
        CrossMaxEnsemble([trained(0)])
    with pytest.raises(BadInput, match="give 2 to 3"):
        CrossMaxEnsemble(members(), rank=4)
    with pytest.raises(BadInput, match="2 temperatures for 3 members"):
        CrossMaxEnsemble(members(), temperatures=(1, 2))
    spoilt = trained(1)
    with torch.no_grad():
        spoilt.get_submodule("linear").get_parameter("bias")[4] = torch.nan
    with pytest.raises(BadInput, match="Member 2 answers NaN"):
        CrossMax().ensemble([trained(0), spoilt], few)
    with pytest.raises(BadInput, match="Member 1 cannot take images of 3 x 8 x 8"):
        CrossMax().ensemble(members(), few.expand(2, 3, 8, 8))
    sized = [nn.Sequential(nn.Flatten(), nn.Linear(side**2, 10)) for side in (8, 12)]
    with pytest.raises(BadInput, match="Member 2 cannot take images of 1 x 8 x 8"):
        CrossMax().ensemble(sized, few)
    with pytest.raises(BadInput, match="Member 2 refuses answers"):
        CrossMaxEnsemble([trained(0), Cautious()])(few)


def test_a_member_of_labels_only_is_refused() -> None:
    deployed = network()
    deployed.labels_only = True  # type: ignore[assignment]
    with pytest.raises(BadInput, match="Member 2 answers labels and nothing else"):
        CrossMaxEnsemble([trained(0), deployed])


def test_a_member_that_answers_no_numbers_leaves_no_answer() -> None:
    spoilt = trained(1)
    with torch.no_grad():
        spoilt.get_submodule("linear").get_parameter("bias")[4] = torch.nan
    answers = CrossMaxEnsemble([trained(0), spoilt, trained(2)]).eval().answer(images())
    assert bool(answers.logits.isnan().all())
    assert answers.labels.tolist() == [NO_NUMBER] * 8


def test_identical_members_answer_as_one_of_them() -> None:
    ensemble = CrossMaxEnsemble([trained(0), trained(0), trained(0)]).eval()
    assert torch.equal(ensemble(images(40)).argmax(1), trained(0)(images(40)).argmax(1))
    parity = CrossMaxEnsemble([trained(0), trained(0)], break_ties=False).eval()
    assert not bool(parity(images()).any())


def test_protect_makes_the_ensemble_and_trains_nothing() -> None:
    data = digits(4)
    own = members()
    before = [models.fingerprint(member) for member in own]
    ensemble = CrossMax(rank=3).protect(
        own, data, threat(), trainer=Trainer(), streams=Streams.of(seed=0, ids=data.ids)
    )
    assert [models.fingerprint(member) for member in ensemble.members] == before
    assert all(not member.training for member in own)
    assert ensemble.aggregation == CrossMax(rank=3)
    training = own[0].train()
    CrossMax().ensemble(own, images(2))
    assert training.training
    assert before[0] == models.fingerprint(training)
    patch = ThreatModel(name="patch", perturbation=Patch(height=2, width=2))
    assert CrossMax().why_not(patch) is None


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_ensemble_comes_back_bit_for_bit(rule: Aggregation, tmp_path: Path) -> None:
    recipes = [models.recipe("cnn", {"classes": 10, "channels": 1}) for _ in range(3)]
    names: dict[type[Aggregation], str] = {
        CrossMax: "crossmax",
        MeanLogits: "mean-logits",
        MedianLogits: "median-logits",
        Vote: "vote",
    }
    ensemble = Ensemble(
        [models.load("cnn", classes=10, channels=1, seed=seed) for seed in range(3)], rule
    ).eval()
    models.save(
        ensemble, tmp_path, spec=f"defenses:{names[type(rule)]}", arguments=rule.arguments(recipes)
    )
    back = models.load(str(tmp_path))
    assert isinstance(back, Ensemble)
    assert back.aggregation == rule
    assert torch.equal(back(images(20)), ensemble(images(20)))
    assert list(back.surrogates()) == list(ensemble.surrogates())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"members": [], "options": {}},
        {"members": "abc", "options": {}},
        {"members": [1, 2], "options": {}},
        {"members": [{"kind": "models"}] * 2, "options": {}},
        {"members": [{"kind": "models", "entry": "cnn", "arguments": {}}] * 2, "options": {"k": 1}},
        {"members": [{"kind": "models", "entry": "cnn", "arguments": {}}] * 2, "options": 3},
        {
            "members": [{"kind": "code", "entry": "os:system", "arguments": {}}] * 2,
            "options": {},
        },
    ],
)
def test_a_description_that_means_nothing_is_bad_input(arguments: dict[str, Any]) -> None:
    made: dict[str, Any] = {"kind": "defenses", "entry": "crossmax", "arguments": arguments}
    with pytest.raises((BadInput, CorruptFile)):
        models.rebuild(made)


def test_a_naive_evaluation_is_told_what_it_missed() -> None:
    ensemble = CrossMaxEnsemble(members()).eval()
    report = evaluate(
        ensemble,
        digits(60),
        threat().with_radius(0.15),
        attacks=[PGD(steps=10, loss="margin")],
        batch_size=60,
    )
    assert report.accuracies.surrogate is not None
    assert report.accuracies.direct.value > report.accuracies.surrogate.value + 0.1
    assert report.robust_accuracy.value <= report.accuracies.surrogate.value
    severities = {flag.id: flag.severity for flag in report.flags}
    assert severities["F2"] == "void"
    assert severities["F3"] == "void"
    through = {row.through for row in report.attacks}
    assert through >= {"direct", "bpda", "warm", *(f"surrogate:{n}" for n in ensemble.surrogates())}
    assert report.violations == 0


def test_the_plain_mean_is_evaluated_as_any_classifier() -> None:
    report = evaluate(
        Ensemble(members(), MeanLogits()).eval(),
        digits(30),
        threat(),
        attacks=[PGD(steps=5)],
        batch_size=30,
    )
    assert {row.through for row in report.attacks} == {"direct"}
    assert report.accuracies.surrogate is None
