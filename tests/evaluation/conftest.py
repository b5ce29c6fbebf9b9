"""What the tests of the evaluation share."""

from collections.abc import Iterator

import pytest

from robustkit.data import LabelledImages
from robustkit.evaluation import adaptive, draws, evasion
from robustkit.evaluation.flags_diagnosis import Diagnosis
from robustkit.models.cnn import CNN
from tests.evaluation import victims


@pytest.fixture
def model() -> CNN:
    """A robustly trained classifier of digits."""
    return victims.victim()


@pytest.fixture
def images() -> LabelledImages:
    """40 digits."""
    return victims.digits()


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Averages over few draws; what the flags measure after a run is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evasion, "diagnose", lambda *_, **__: Diagnosis())
        patch.setattr(adaptive, "RUNGS", (4, 6, 20))
        patch.setattr(draws, "RUNGS", (4, 6, 20))
        yield
