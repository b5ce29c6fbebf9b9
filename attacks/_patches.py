"""Starts that keep only those patches of another image that they need."""

import torch
from torch import Tensor
from torch.nn import functional as F

from robustkit.attacks._boundary import Hunt, Steps, columns


def put_back(hunt: Hunt, *, side: int) -> Steps[None]:
    """Put the clean image back into the points found, patch by patch, wherever that holds.

    An image of another class differs everywhere, and its class hangs on a few places. A patch costs
    one question; those in which most is changed come first.

    Args:
        hunt: The account.
        side: Patches along each side of an image.
    """
    down, across = (min(side, size) for size in hunt.clean.shape[2:])
    if not down * across:
        return
    changed = (hunt.point - hunt.clean).square().sum(1, keepdim=True)
    weight = F.adaptive_avg_pool2d(changed, (down, across)).flatten(1)
    weight, order = weight.sort(dim=1, descending=True, stable=True)
    patch = _patches(hunt.clean, down, across)
    for turn in range(down * across):
        rows = hunt.started()
        rows = rows[weight[rows, turn] > 0]
        if not len(rows):
            break
        inside = patch == columns(order[rows, turn])
        points = torch.where(inside, hunt.clean[rows], hunt.point[rows])
        yield from hunt.try_out(points, rows)


def _patches(like: Tensor, down: int, across: int) -> Tensor:
    """(H, W) int64: in which patch each pixel lies."""
    (height, width), device = like.shape[2:], like.device
    y = torch.arange(height, device=device) * down // height
    x = torch.arange(width, device=device) * across // width
    return y[:, None] * across + x
