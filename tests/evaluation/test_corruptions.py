"""The scenario of common corruptions: its numbers, its control, its records."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit.corruptions import NAMES, SEVERITIES, corrupt
from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.evaluation import evaluate, evaluate_corruptions
from robustkit.evaluation.corruptions_summary import mean_interval
from robustkit.evaluation.corruptions_survey import Survey
from robustkit.models.cnn import CNN
from robustkit.report import CorruptionsReport, read
from robustkit.statistics import wilson
from tests.evaluation.victims import Count, Counting, network

CELLS = 75
WIDTH = 8


@pytest.fixture
def few(images: LabelledImages) -> LabelledImages:
    return images.first(20)


def told(report: CorruptionsReport) -> dict[str, Any]:
    """A report without what the clock says."""
    found: dict[str, Any] = json.loads(report.to_json())
    del found["cost"]["seconds"], found["diagnostics"]["control and reference"]["seconds"]
    return found


def by_id(report: CorruptionsReport) -> dict[int, tuple[int, int]]:
    return {e.id: (e.clean_label, e.correct) for e in report.examples}


class Constant(nn.Module):
    """Answers one class."""

    def __init__(self, answer: int = 0) -> None:
        super().__init__()
        self.always = nn.Parameter(torch.nn.functional.one_hot(torch.tensor(answer), 10).float())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.always + 0 * inputs.flatten(1).sum(1, keepdim=True)


class TestNumbers:
    def test_agree_with_each_other(self, model: CNN, few: LabelledImages) -> None:
        report = evaluate_corruptions(model, few)
        assert [row.name for row in report.grid] == list(NAMES)
        cells = [cell.value for row in report.grid for cell in row.severities]
        assert len(cells) == CELLS
        mean = sum(cells) / CELLS
        assert report.mean_accuracy.value == pytest.approx(mean)
        assert sum(e.correct for e in report.examples) == pytest.approx(mean * CELLS * 20)
        assert 0.2 < mean < report.clean_accuracy.value, "the victim suffers and survives"
        verdict = report.verdict
        assert (verdict.metric, verdict.worse, verdict.n) == ("mean_accuracy", "lower", 20)
        assert (verdict.value, verdict.low, verdict.high) == (
            report.mean_accuracy.value,
            report.mean_accuracy.low,
            report.mean_accuracy.high,
        )
        assert report.cost.forward == 20 * (CELLS + 1)
        assert report.parameters == "cifar-c"

    def test_are_those_of_a_plain_loop(self, model: CNN, few: LabelledImages) -> None:
        report = evaluate_corruptions(model, few, seed=3)
        for name, severity in (("fog", 4), ("shot-noise", 5), ("elastic-transform", 2)):
            changed = corrupt(
                few.inputs(slice(None)), name, severity, streams=Survey.drawing(few.ids, 3)
            )
            right = int((model(changed).argmax(1) == few.labels).sum())
            row = report.grid[NAMES.index(name)]
            assert row.severities[severity - 1] == wilson(right, 20)

    def test_clean_accuracy_is_that_of_other_scenarios(
        self, model: CNN, few: LabelledImages
    ) -> None:
        attacked = evaluate(model, few, "linf", attacks=["fgsm"])
        assert evaluate_corruptions(model, few).clean_accuracy == attacked.clean_accuracy

    def test_never_become_a_robust_accuracy(self, model: CNN, few: LabelledImages) -> None:
        report = evaluate_corruptions(model, few.first(4))
        assert "robust_accuracy" not in report.to_json()
        assert report.scenario == "corruptions"

    def test_the_interval_is_over_images_and_holds_the_mean(self) -> None:
        assert mean_interval(torch.full((20,), CELLS)) == wilson(20, 20)
        assert mean_interval(torch.zeros(20)) == wilson(0, 20)
        found = mean_interval(torch.tensor([CELLS] * 10 + [0] * 10))
        assert found == wilson(10, 20)
        between = mean_interval(torch.tensor([40] * 20))
        assert between.value == pytest.approx(40 / CELLS)
        assert between.low == wilson(10, 20).low
        assert between.high == wilson(11, 20).high
        assert between.low < wilson(40 * 20, 75 * 20).low, "75 answers are not 75 examples"


class TestIndependence:
    def test_order_shards_and_seed(self, model: CNN, few: LabelledImages) -> None:
        whole = by_id(evaluate_corruptions(model, few, batch_size=WIDTH))
        order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
        assert by_id(evaluate_corruptions(model, few.take(order), batch_size=WIDTH)) == whole
        shard = by_id(evaluate_corruptions(model, few.take(slice(3, 20, 4)), batch_size=WIDTH))
        assert shard == {id_: whole[id_] for id_ in shard}
        assert by_id(evaluate_corruptions(model, few, batch_size=WIDTH, seed=1)) != whole

    def test_the_width_changes_next_to_nothing(self, model: CNN, few: LabelledImages) -> None:
        one = by_id(evaluate_corruptions(model, few, batch_size=20))
        other = by_id(evaluate_corruptions(model, few, batch_size=7))
        apart = sum(abs(one[id_][1] - other[id_][1]) for id_ in one)
        assert apart <= 0.005 * CELLS * 20

    def test_the_model_is_given_back_as_it_was(self, few: LabelledImages) -> None:
        model = network().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        evaluate_corruptions(model, few.first(3))
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)


class TestControl:
    def test_severity_0_equals_clean(self, model: CNN, few: LabelledImages) -> None:
        report = evaluate_corruptions(model, few)
        (control,) = report.controls
        assert (control.name, control.value) == ("severity 0", report.clean_accuracy.value)
        assert "control-failed" not in {flag.id for flag in report.flags}

    def test_a_model_that_changes_its_mind_is_caught(self, few: LabelledImages) -> None:
        class Tiring(nn.Module):
            """Answers rightly to begin with, and otherwise after many images."""

            def __init__(self) -> None:
                super().__init__()
                self.seen = 0
                self.fresh, self.tired = Constant(1), Constant(2)

            def forward(self, inputs: Tensor) -> Tensor:
                self.seen += len(inputs)
                answer: Tensor = (self.fresh if self.seen < 500 else self.tired)(inputs)
                return answer

        report = evaluate_corruptions(Tiring(), few)
        failed = [flag for flag in report.flags if flag.id == "control-failed"]
        assert [flag.severity for flag in failed] == ["void"]
        assert report.controls[0].value != report.clean_accuracy.value

    def test_a_random_model_is_only_warned_about(self, few: LabelledImages) -> None:
        class Random(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                return torch.randn(len(inputs), 10)

        report = evaluate_corruptions(Random(), few)
        failed = [flag for flag in report.flags if flag.id == "control-failed"]
        assert [flag.severity for flag in failed] == ["warn"]
        assert not report.environment.reproducible


class TestReference:
    def test_a_model_is_as_good_as_itself(self, model: CNN, few: LabelledImages) -> None:
        report = evaluate_corruptions(model, few, reference=model, reference_name="same")
        assert report.mce is not None
        assert report.mce.reference.spec == "same"
        assert report.mce.reference_accuracy == pytest.approx(report.mean_accuracy.value)
        shares = {row.corruption_error for row in report.grid}
        assert shares <= {1.0, None}
        assert 1.0 in shares
        other = report.diagnostics["control and reference"]
        assert isinstance(other, dict)
        assert other["forward"] == 20 * (CELLS + 1)

    def test_errors_are_shares_of_the_reference_s(self, few: LabelledImages) -> None:
        zeros = int((few.labels == 0).sum())
        report = evaluate_corruptions(Constant(1), few, reference=Constant(0))
        expected = (20 - int((few.labels == 1).sum())) / (20 - zeros)
        assert report.mce is not None
        assert report.mce.value == pytest.approx(expected)
        assert {row.corruption_error for row in report.grid} == {expected}

    def test_a_perfect_reference_gives_no_number(self, few: LabelledImages) -> None:
        zeros = few.take(few.labels == 0)
        report = evaluate_corruptions(Constant(1), zeros, reference=Constant(0))
        assert report.mce is not None
        assert report.mce.value is None
        assert {row.corruption_error for row in report.grid} == {None}

    def test_without_one_there_is_no_such_number(self, few: LabelledImages) -> None:
        report = evaluate_corruptions(Constant(1), few)
        assert report.mce is None
        assert {row.corruption_error for row in report.grid} == {None}


class TestRecords:
    def test_an_interrupted_run_goes_on_where_it_was(
        self, model: CNN, few: LabelledImages, tmp_path: Path
    ) -> None:
        def stop(count: Count) -> None:
            if count.calls == 100:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"batch_size": WIDTH, "model_name": "victim"}
        interrupted = Counting(model, hook=stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate_corruptions(interrupted, few, out=tmp_path / "run", **options)
        counting = Counting(model)
        report = evaluate_corruptions(counting, few, out=tmp_path / "run", resume=True, **options)
        whole = evaluate_corruptions(Counting(model), few, **options)
        assert told(report) == told(whole)
        # Beside the guards: 3 parts in 77 ways, of which the first run had most of one hundred.
        assert counting.count.calls < 3 * (CELLS + 2) - 80

    def test_a_half_written_line_is_asked_again(
        self, model: CNN, few: LabelledImages, tmp_path: Path
    ) -> None:
        whole = evaluate_corruptions(model, few, out=tmp_path / "run", batch_size=WIDTH)
        records = tmp_path / "run" / "records.jsonl"
        lines = records.read_bytes().splitlines(keepends=True)
        records.write_bytes(b"".join(lines[:60]) + lines[60][:20])
        again = evaluate_corruptions(
            model, few, out=tmp_path / "run", batch_size=WIDTH, resume=True
        )
        assert told(again) == told(whole)

    def test_a_folder_of_another_run_is_refused(
        self, model: CNN, few: LabelledImages, tmp_path: Path
    ) -> None:
        few = few.first(2)
        evaluate_corruptions(model, few, out=tmp_path / "run")
        with pytest.raises(BadInput, match="Add --resume"):
            evaluate_corruptions(model, few, out=tmp_path / "run")
        with pytest.raises(BadInput, match="differs in seed"):
            evaluate_corruptions(model, few, out=tmp_path / "run", seed=1, resume=True)
        with pytest.raises(BadInput, match="differs in reference model"):
            evaluate_corruptions(
                model, few, out=tmp_path / "run", resume=True, reference=Constant()
            )
        evaluate(model, few, "linf", attacks=["fgsm"], out=tmp_path / "other")
        with pytest.raises(BadInput, match="differs in scenario"):
            evaluate_corruptions(model, few, out=tmp_path / "other", resume=True)

    def test_the_folder_holds_report_and_page(
        self, model: CNN, few: LabelledImages, tmp_path: Path
    ) -> None:
        report = evaluate_corruptions(model, few.first(2), out=tmp_path)
        assert read(tmp_path) == report
        page = (tmp_path / "report.html").read_text()
        assert page.count("data:image/png") == 1 + len(NAMES)
        assert page.count("<rect") >= len(NAMES) * (len(SEVERITIES) + 1)


class TestFlagsAndBadInput:
    def test_other_sizes_are_told(self, model: CNN, few: LabelledImages) -> None:
        flags = {flag.id for flag in evaluate_corruptions(model, few.first(2)).flags}
        assert {"computed-corruptions", "other-size"} <= flags
        large = LabelledImages.from_tensors(torch.rand(2, 1, 32, 32), torch.tensor([0, 9]))
        flags = {flag.id for flag in evaluate_corruptions(Constant(), large).flags}
        assert "other-size" not in flags

    def test_a_pair_of_tensors_and_channels_of_any_number(self) -> None:
        pair = torch.rand(3, 2, 12, 9), torch.tensor([0, 1, 2])
        assert evaluate_corruptions(Constant(), pair).clean_accuracy == wilson(1, 3)

    def test_what_does_not_fit_is_refused(self, few: LabelledImages) -> None:
        with pytest.raises(BadInput, match="10 classes"):
            evaluate_corruptions(
                Constant(), LabelledImages.from_tensors(torch.rand(1, 1, 8, 8), torch.tensor([10]))
            )
        with pytest.raises(BadInput, match="cannot take images"):
            evaluate_corruptions(nn.Linear(3, 2), few)
        with pytest.raises(BadInput, match="cannot take images"):
            evaluate_corruptions(Constant(), few, reference=nn.Linear(3, 2))
        with pytest.raises(BadInput, match="batch size is 0"):
            evaluate_corruptions(Constant(), few, batch_size=0)
        with pytest.raises(BadInput, match="64 bits"):
            evaluate_corruptions(Constant(), few, seed=2**63)
        with pytest.raises(BadInput, match="Use cpu"):
            evaluate_corruptions(Constant(), few, device="nonsense")

    def test_a_report_whose_numbers_disagree_cannot_be_made(
        self, model: CNN, few: LabelledImages
    ) -> None:
        report = evaluate_corruptions(model, few.first(3))
        with pytest.raises(BadInput, match="the data has 3 examples"):
            replace(report, examples=report.examples[:2])
        with pytest.raises(BadInput, match="more often than it was asked"):
            replace(report, grid=())
        row = report.grid[0]
        with pytest.raises(BadInput, match="mean"):
            replace(row, mean=row.mean / 2 + 0.1)
        with pytest.raises(BadInput, match="4 severities"):
            replace(row, severities=row.severities[:4])
