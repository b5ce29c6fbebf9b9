"""Which examples are in which batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.randomness import Streams
from robustkit.training.augmentation import Augmentation, augment
from robustkit.training.batch import Batch
from robustkit.training.mixing import Pool
from robustkit.training.runtime import Session


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The batches of one process; a pure function of seed, epoch and step.

    Attributes:
        pool: The examples to learn from, extra ones among them.
        batch_size: Of one step, all processes together.
        accumulate: Parts in which a process passes its rows through the model.
        augmentation: Applied in order.
        seed: Of order and augmentation.
        session: Who takes which rows.
    """

    pool: Pool
    batch_size: int
    accumulate: int
    augmentation: Sequence[Augmentation]
    seed: int
    session: Session

    def __post_init__(self) -> None:
        """Refuse batches that cannot be shared out."""
        parts = self.session.world * self.accumulate
        if self.batch_size % parts:
            raise BadInput(
                f"A batch of {self.batch_size} cannot be shared evenly by {self.session.world} "
                f"processes in {self.accumulate} parts each. Give a multiple of {parts}."
            )
        if self.pool.extra is not None:
            self.pool.extra.count(self.batch_size)
        if len(self.data) < self.batch_size:
            raise BadInput(
                f"There are {len(self.data)} examples to learn from, fewer than one batch of "
                f"{self.batch_size}. Give a smaller batch size."
            )

    @property
    def data(self) -> LabelledImages:
        """The examples but for the extra ones."""
        return self.pool.data

    @property
    def steps(self) -> int:
        """Steps per epoch; examples that do not fill a batch are left out, others every epoch."""
        return len(self.data) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """(N,) int64: the rows of the pool in an epoch, one batch after the other."""
        return self.pool.order(epoch, steps=self.steps, batch_size=self.batch_size, seed=self.seed)

    def batches(self, order: Tensor, epoch: int, step: int) -> list[Batch]:
        """This process's parts of one step's batch.

        Args:
            order: That of the epoch.
            epoch: From 0.
            step: From 0.
        """
        share = self.batch_size // self.session.world
        start = step * self.batch_size + self.session.rank * share
        parts = order[start : start + share].chunk(self.accumulate)
        return [self._batch(rows, epoch, step) for rows in parts]

    def fixed(self) -> Batch:
        """One batch of training examples, as they are, the same at any time and on any process."""
        rows = Pool(self.data, None).order(0, steps=1, batch_size=self.batch_size, seed=self.seed)
        return self.plain(self.data, rows, seed=self.seed, purpose="probe", session=self.session)

    @staticmethod
    def plain(
        data: LabelledImages, rows: Tensor, *, seed: int, purpose: str, session: Session
    ) -> Batch:
        """Some rows without augmentation, with streams that are the same in every epoch."""
        ids = data.ids[rows].to(session.device)
        return Batch(
            inputs=session.images(data.inputs(rows)),
            labels=data.labels[rows].to(session.device),
            ids=ids,
            epoch=0,
            step=0,
            streams=Streams.of(seed=seed, ids=ids, purpose=purpose),
        )

    def _batch(self, rows: Tensor, epoch: int, step: int) -> Batch:
        device = self.session.device
        ids = self.pool.ids[rows].to(device)
        streams = Streams.of(seed=self.seed, ids=ids, purpose="training").fork(f"epoch {epoch}")
        inputs, labels = augment(
            self.augmentation,
            self.session.images(self.pool.inputs(rows)),
            self.pool.labels[rows].to(device),
            classes=self.data.classes,
            streams=streams,
        )
        return Batch(inputs=inputs, labels=labels, ids=ids, epoch=epoch, step=step, streams=streams)
