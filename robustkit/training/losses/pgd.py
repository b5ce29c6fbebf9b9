"""Adversarial training on the worst inputs that projected gradient descent finds."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.training.batch import Batch
from robustkit.training.losses.adversarial import Adversarial
from robustkit.training.losses.base import accuracy, logits_of
from robustkit.training.losses.standard import check_share


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Adversarial):
    """Cross-entropy on inputs that PGD has changed.

    Attributes:
        label_smoothing: Share of each label that is spread evenly over all classes; in the outer
            loss only.

    Reference:
        Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to
        adversarial attacks. ICLR 2018. Selecting the epoch by held-out robust accuracy: Rice, Wong,
        Kolter: Overfitting in adversarially robust deep learning. ICML 2020.

    Differs from the reference:
        The attack normalises with running statistics unless `attack_batch_norm` is `batch`.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters that mean nothing."""
        super().__post_init__()
        check_share("label smoothing", self.label_smoothing)

    def on(self, model: nn.Module, batch: Batch, changed: Tensor) -> Tensor:
        """Cross-entropy on the changed inputs."""
        logits = logits_of(model, changed)
        batch.notes["adversarial_accuracy"] = accuracy(logits, batch)
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
