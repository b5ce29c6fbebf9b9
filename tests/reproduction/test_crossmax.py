"""CrossMax at the size at which its break was first rebuilt here: eight CNNs, 100 images."""

import pytest

from robustkit import data, evaluate
from robustkit.attacks import PGD
from robustkit.defenses import CrossMax, Ensemble, MeanLogits
from robustkit.threat_models import LpBall, ThreatModel
from tests.benchmarks.crossmax_members import Size, member
from tests.benchmarks.keeping import folder

THREAT = ThreatModel(name="linf", perturbation=LpBall(norm="linf", radius=0.1))
SIZE = Size(train=8000, epochs=3)


@pytest.mark.slow
def test_direct_attacks_credit_crossmax_with_what_the_worst_case_takes_away() -> None:
    with folder() as place:
        members = [member(place, "standard", seed, SIZE) for seed in range(SIZE.members)]
    images = data.load("fashion-mnist", n=100)
    attack = PGD(steps=30, loss="margin")
    mean = evaluate(Ensemble(members, MeanLogits()).eval(), images, THREAT, attacks=[attack])
    report = evaluate(Ensemble(members, CrossMax()).eval(), images, THREAT, attacks=[attack])
    found = report.accuracies
    assert found.surrogate is not None
    assert found.direct.value > mean.robust_accuracy.value + 0.2
    assert found.surrogate.value < found.direct.value - 0.2
    assert found.worst.value < mean.robust_accuracy.value + 0.1
    assert {"F2"} <= {flag.id for flag in report.flags if flag.severity == "void"}
    assert report.violations == 0
