"""What the tests of models share."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def images() -> Tensor:
    """(6, 3, 12, 9) images in [0, 1]."""
    return torch.rand(6, 3, 12, 9, generator=torch.Generator().manual_seed(0))
