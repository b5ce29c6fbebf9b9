"""What lies outside the set on an attack's way says nothing of the lead that is left."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustkit.attacks import APGD
from robustkit.attacks._eot import EOT
from robustkit.attacks.queued import Queued, searched
from robustkit.attacks.rows import Rows
from robustkit.randomness import Streams
from robustkit.threat_models import Access, LpBall, Meter, Objective, grant


class Threshold(nn.Module):
    """Class 1 from a sum of changes of 2 on."""

    def forward(self, inputs: Tensor) -> Tensor:
        lead = inputs.flatten(1).sum(1) - 10.0
        return torch.stack([torch.zeros_like(lead), lead], dim=1)


@pytest.mark.parametrize(
    "attack",
    [APGD(wide_start=True, steps=20), EOT(attack=APGD(wide_start=True, steps=20), average=2)],
    ids=["alone", "averaged"],
)
def test_the_lead_is_that_of_points_in_the_set(attack: Queued[Any]) -> None:
    clean = torch.full((2, 1, 4, 4), 0.5)
    ids = torch.arange(2)
    streams = Streams.of(seed=0, ids=ids)
    # A change of 1 is allowed, which leaves 1 of the lead of 2; wide balls take it all.
    ball = LpBall(norm="l1", radius=1.0)
    rows = Rows.first(clean, Objective(torch.zeros(2, dtype=torch.int64)), streams, ids, ball)
    view: Any = grant(Meter(Threshold().eval(), streams), Access.GRADIENT)
    found = list(searched(attack, view, iter([rows]), width=2, pad=True))
    leads = torch.cat([part.lead for part in found])
    torch.testing.assert_close(leads, torch.full((2,), -1.0), atol=1e-3, rtol=0)
