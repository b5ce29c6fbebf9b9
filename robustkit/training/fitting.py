"""Whether a model can learn from some data."""

import torch
from torch import Tensor, nn

from robustkit.errors import BadInput
from robustkit.models.frozen import frozen
from robustkit.training.mixing import Pool
from robustkit.training.runtime import Session


def check_fit(model: nn.Module, pool: Pool, session: Session) -> None:
    """Refuse a model that cannot answer the data's classes, or cannot take its images.

    Args:
        model: On its device.
        pool: What it is to learn from.
        session: Where.

    Raises:
        BadInput: It cannot.
    """
    images = session.images(pool.inputs(torch.zeros(1, dtype=torch.int64)))
    with frozen(model), torch.no_grad():
        try:
            # Not by a call: what is compiled should be compiled for whole batches.
            logits = model.forward(images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shape = " x ".join(str(side) for side in images.shape[1:])
            raise BadInput(
                f"The model cannot take images of {shape} (channels x height x width): {error} "
                "Give data of the size the model was made for."
            ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise BadInput("The model must answer one row of logits per image, of shape (N, K).")
    worst = int(pool.labels.max())
    if worst >= logits.shape[1]:
        raise BadInput(
            f"The data has the label {worst}, but the model answers {logits.shape[1]} classes "
            f"(0 to {logits.shape[1] - 1}). Give a model with at least {worst + 1}."
        )
