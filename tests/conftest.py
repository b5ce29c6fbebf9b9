"""What every test shares: one thread, devices, and a watch over the global generators."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import rich.style  # noqa: F401 - draws once from the global generator when it is imported
import torch

from tests.global_rng import watch

# On small networks more threads gain nothing, and on a busy machine they disturb one another.
torch.set_num_threads(1)

# Where tests are started in the background, this signal is ignored, by every child process too.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "robustkit", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("robustkit")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that the package supports; CUDA under the marker `gpu`."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def no_global_rng() -> Iterator[None]:
    """Fail a test in which package code changed a global random state."""
    with watch() as changed:
        yield
    guilty = changed()
    if guilty:
        pytest.fail(f"package code changed the global random state of: {', '.join(guilty)}")
