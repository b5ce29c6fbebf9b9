"""What a loss is given for one step."""

from dataclasses import dataclass, field

from torch import Tensor

from robustkit.randomness import Streams


@dataclass(slots=True, kw_only=True)
class Batch:
    """Some training examples, row-aligned, on the device of the model.

    Attributes:
        inputs: (N, C, H, W) float32 in [0, 1], augmented.
        labels: (N,) int64 classes, or (N, K) float32 shares of each class.
        ids: (N,) int64 example ids.
        epoch: From 0.
        step: Within the epoch, from 0.
        streams: One random stream per example, another in every epoch.
        replay: How often this batch has been stepped on before; see `Loss`.
        changed: The inputs as the loss's attack has changed them, once that is done: a loss and
            what wraps it share them.
        notes: What the loss wants logged, by name: scalars, detached. The trainer averages them.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    epoch: int
    step: int
    streams: Streams
    replay: int = 0
    changed: Tensor | None = None
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def classes(self) -> Tensor:
        """(N,) int64: the class of each example; the largest share where labels are shares."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(1)

    def __len__(self) -> int:
        """How many examples."""
        return len(self.inputs)
