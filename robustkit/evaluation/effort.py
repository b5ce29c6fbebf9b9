"""What the end of a search has found: what more effort of its kind might."""

import torch
from torch import Tensor

from robustkit.report import Effort
from robustkit.statistics import count_at_most


def later_half(spent: Tensor, fallen: Tensor) -> Effort | None:
    """What the second half of all passes has broken, counted along the search of each example.

    An example that has fallen is attacked no longer, and one that stands might have fallen later.
    So the rate is that of events over exposure, as in the analysis of survival: the examples that
    fell after more passes than some number, over the passes that were made beyond it. The number
    is the one that leaves half of all passes on either side.

    Args:
        spent: (M,) float64 passes for each example that was right at first, until it fell; NaN
            where nobody can tell.
        fallen: (M,) bool.

    Returns:
        None where that is not known, or nothing stands.
    """
    if bool(fallen.all()) or not bool(spent.isfinite().all()):
        return None
    ordered = spent.sort().values
    before = ordered.cumsum(0) - ordered
    under_attack = torch.arange(len(spent), 0, -1)
    half = float(spent.sum()) / 2
    # Passes of all examples together by the time at which each of them leaves.
    place = int(torch.searchsorted(before + under_attack * ordered, half))
    number = (half - float(before[place])) / float(under_attack[place])
    broken = int((fallen & (spent > number)).sum())
    more = min(count_at_most(broken), int((~fallen).sum()))
    return Effort(passes=round(half), broken=broken, more_at_most=more)
