"""Training without an adversary."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.errors import BadInput
from robustkit.training.batch import Batch
from robustkit.training.losses.base import accuracy, logits_of


def check_share(what: str, value: float) -> None:
    """Refuse what is no share in [0, 1).

    Raises:
        BadInput: It is not.
    """
    if not 0 <= value < 1:
        raise BadInput(f"The {what} is {value}; it must lie in [0, 1).")


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy:
    """Cross-entropy of the labels, classes or shares of classes.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes.

    Raises:
        BadInput: A smoothing outside [0, 1).

    Reference:
        Label smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception
        architecture for computer vision. CVPR 2016.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a smoothing that means nothing."""
        check_share("label smoothing", self.label_smoothing)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch."""
        logits = logits_of(model, batch.inputs)
        batch.notes["accuracy"] = accuracy(logits, batch)
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)


cross_entropy = CrossEntropy()
