"""What the tests of the evaluation share."""

import pytest

from robustkit.data import LabelledImages
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
