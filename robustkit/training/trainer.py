"""The one trainer that everything shares."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from robustkit.data import LabelledImages
from robustkit.errors import BadInput
from robustkit.training.augmentation import Augmentation
from robustkit.training.averaging import Averaging
from robustkit.training.history import Progress, Silent
from robustkit.training.losses.base import Loss, norms
from robustkit.training.losses.registered import loss_class
from robustkit.training.losses.standard import cross_entropy
from robustkit.training.mixing import Extra
from robustkit.training.optimizers import SGD, Optimizer
from robustkit.training.result import TrainResult
from robustkit.training.run import Run
from robustkit.training.runtime import Runtime
from robustkit.training.schedules import Cosine, Schedule
from robustkit.training.selection import Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """Lowers a loss; knows no attack, no threat model and no defense.

    Attributes:
        epochs: Passes over the data.
        batch_size: Examples per step, all processes together; made smaller for smaller data.
        optimizer: What makes steps of gradients.
        schedule: How the learning rate changes.
        augmentation: Of the training images, in order.
        selection: Holds examples out and keeps the epoch that does best on them; None keeps the
            last.
        averaging: Keep a moving average of the weights, and give that back.
        clip: The largest length of the gradient; longer ones are scaled down.
        accumulate: Parts in which each process passes its rows through the model, for memory.
        batch_norm: `train` gathers statistics as usual; `frozen` keeps those there are. A clean
            pass in `train` mode costs an adversarially trained model its robustness.
        max_steps: Stop after so many steps.
        seed: Of order, augmentation, attacks and dropout.
        runtime: Device, precision and processes.
        out: Folder for checkpoints and history; None writes nothing.
        resume: Go on with the run in `out`, if there is one.
        checkpoint_steps: Write a checkpoint every so many steps, besides after every epoch.
        tensorboard: Write a TensorBoard log into `out` too.
        progress: Who is told how it goes on.

    Raises:
        BadInput: A value that means nothing.

    Example:
        >>> import torch
        >>> from robustkit.data import LabelledImages
        >>> images = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> data = LabelledImages.from_tensors(images, (images.mean((1, 2, 3)) > 0.5).long())
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> result = Trainer(epochs=20, batch_size=16, optimizer=SGD(lr=0.5)).fit(model, data)
        >>> result.history[-1]["loss"] < result.history[0]["loss"]
        True
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    augmentation: Sequence[Augmentation] = ()
    selection: Selection | None = None
    averaging: Averaging | None = None
    clip: float | None = None
    accumulate: int = 1
    batch_norm: Literal["train", "frozen"] = "train"
    max_steps: int | None = None
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)
    out: Path | None = None
    resume: bool = False
    checkpoint_steps: int | None = None
    tensorboard: bool = False
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        for what, value in (
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("accumulate", self.accumulate),
            ("max_steps", self.max_steps),
            ("checkpoint_steps", self.checkpoint_steps),
        ):
            if value is not None and value < 1:
                raise BadInput(f"The trainer's {what} is {value}; it must be at least 1.")
        if self.clip is not None and not self.clip > 0:
            raise BadInput(f"The gradient's largest length is {self.clip}; give one above 0.")
        if self.batch_norm not in ("train", "frozen"):
            raise BadInput(f"batch_norm is {self.batch_norm!r}; use train or frozen.")
        if self.schedule.follows_score and self.selection is None:
            raise BadInput(
                f"The schedule {type(self.schedule).__name__} follows a held-out score: give a "
                "selection too."
            )
        if self.out is None and (self.resume or self.tensorboard):
            raise BadInput("Resuming and TensorBoard need a folder: give `out` too.")

    def loss(self, name: str) -> Callable[..., Loss]:
        """The registered loss called so: a class, to be called with its options by keyword.

        Raises:
            UnknownName: There is none.

        Example:
            >>> Trainer().loss("cross-entropy")(label_smoothing=0.1)
            CrossEntropy(label_smoothing=0.1)
        """
        return loss_class(name)

    def fit(
        self,
        model: nn.Module,
        data: LabelledImages | tuple[Tensor, Tensor],
        loss: Loss = cross_entropy,
        *,
        extra: Extra | None = None,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> TrainResult:
        """Train a model in place.

        Args:
            model: Afterwards it has the best weights (see `TrainResult`), on the device, in the
                modes and with the `requires_grad` flags that it came with.
            data: Labelled images, or an (inputs, labels) pair.
            loss: What is lowered.
            extra: Further examples, a share of every batch.
            parameters: The only ones to be changed; all by default that require gradients.

        Raises:
            BadInput: Model, data, loss and settings do not fit each other, `out` holds another
                run, or the loss is NaN before one epoch is complete.
            CorruptFile: There are checkpoints to resume from, and none can be read.
            CannotWrite: The disk is full; the last checkpoint is intact.
        """
        images = data if isinstance(data, LabelledImages) else LabelledImages.from_tensors(*data)
        chosen = _chosen(model, parameters)
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(self.runtime.open())
            stack.enter_context(_own_randomness(session.device))
            stack.enter_context(_training_modes(model, chosen, self.batch_norm))
            run = Run(self, session, model, images, extra, loss, chosen)
            stack.enter_context(session.placed(model))
            return run.go()


def _chosen(model: nn.Module, parameters: Iterable[nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """The parameters to be changed, by name."""
    own = dict(model.named_parameters())
    if parameters is None:
        chosen = {name: parameter for name, parameter in own.items() if parameter.requires_grad}
    else:
        wanted = {id(parameter) for parameter in parameters}
        chosen = {name: parameter for name, parameter in own.items() if id(parameter) in wanted}
        if len(chosen) < len(wanted):
            raise BadInput(
                f"{len(wanted) - len(chosen)} of the {len(wanted)} parameters to be trained do not "
                "belong to the model. Take them from model.parameters()."
            )
    if not chosen:
        raise BadInput(f"The model {type(model).__name__} has no parameters to train.")
    return chosen


@contextlib.contextmanager
def _training_modes(
    model: nn.Module, chosen: dict[str, nn.Parameter], batch_norm: str
) -> Iterator[None]:
    """Training mode, gradients for the chosen parameters; each flag is restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    wanted = {id(parameter) for parameter in chosen.values()}
    try:
        model.train()
        if batch_norm == "frozen":
            for layer in norms(model):
                layer.eval()
        for parameter in flags:
            parameter.requires_grad_(id(parameter) in wanted)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Dropout draws from global generators, which are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
