"""What the commands share that make a defense learn: their options, images and trainer."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from robustkit.cli.foreign import kept_apart
from robustkit.cli.members import check_out
from robustkit.cli.settings import setting
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from robustkit.cli.origin import Origin
    from robustkit.data import LabelledImages
    from robustkit.randomness import Streams
    from robustkit.threat_models import ThreatModel
    from robustkit.training import Trainer
    from robustkit.training.history import Progress

Command = Callable[..., int]
Made = TypeVar("Made", covariant=True)


class Protects(Protocol[Made]):
    """A defense, by what it makes."""

    def protect(
        self,
        models: "Sequence[nn.Module]",
        data: "LabelledImages",
        threat: "ThreatModel",
        *,
        trainer: "Trainer",
        streams: "Streams",
    ) -> Made:
        """See `robustkit.defenses.Defense`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """From what a defense learns, how long, and where to; each field is an option."""

    data: str | None
    data_root: Path | None
    split: str | None
    n: int | None
    size: int
    download: bool
    epochs: int
    batch_size: int
    lr: float
    seed: int | None
    settings: tuple[str, ...]
    device: str
    out: Path
    resume: bool

    def check_places(self, specs: Sequence[str]) -> None:
        """Refuse to learn from test images, and to write over what is being defended.

        Args:
            specs: The words for the models.

        Raises:
            BadInput: That was asked for.
        """
        if self.split == "test":
            raise BadInput(
                "A defense learns from its images, so that test images would no longer tell how "
                "well it does. Give training images: --split train."
            )
        check_out(specs, self.out)

    def seed_after(self, origin: "Origin") -> int:
        """The seed that was asked for, by default that of the model's training."""
        return origin.seed if self.seed is None else self.seed

    def images(self, origin: "Origin") -> "LabelledImages":
        """What to learn from; by default what the model has learnt from."""
        from robustkit import data as datasets

        own = self.data is None
        return datasets.load(
            origin.data if self.data is None else self.data,
            split=self.split or (origin.split if own else "train"),
            n=origin.n if self.n is None and own else self.n,
            root=self.data_root,
            size=self.size,
            select="stratified",
            seed=self.seed_after(origin),
            download=self.download,
        )

    def table(self) -> dict[str, Any]:
        """What `--set` says."""
        return dict(setting(text, "--set") for text in self.settings)

    def placed(self, trainer: "Trainer", seed: int, progress: "Progress") -> "Trainer":
        """A trainer with the size of steps, the folder and the seed that were asked for."""
        return dataclasses.replace(
            trainer,
            batch_size=self.batch_size,
            seed=seed,
            out=self.out,
            resume=self.resume,
            progress=progress,
        )

    def trainer(self, seed: int, progress: "Progress") -> "Trainer":
        """Adam with one cycle of the learning rate."""
        from robustkit.training import AdamW, OneCycle, Runtime, Trainer

        plain = Trainer(
            epochs=self.epochs,
            optimizer=AdamW(lr=self.lr, weight_decay=0.0),
            schedule=OneCycle(),
            runtime=Runtime(device=self.device, channels_last=True),
        )
        return self.placed(plain, seed, progress)

    def protected(
        self,
        defense: "Protects[Made]",
        networks: "Sequence[nn.Module]",
        images: "LabelledImages",
        threat: "ThreatModel",
        seed: int,
    ) -> "Made":
        """What a defense makes of some networks, while progress is shown."""
        from robustkit.cli.train_progress import watch
        from robustkit.randomness import Streams

        streams = Streams.of(seed=seed, ids=images.ids, purpose=type(defense).__name__)
        with kept_apart(), watch(enabled=True) as progress:
            trainer = self.trainer(seed, progress)
            return defense.protect(networks, images, threat, trainer=trainer, streams=streams)


def learning(*, epochs: int, lr: float) -> Callable[[Command], Command]:
    """Give a command the options of a `Lesson`, and pass it one by that name.

    Args:
        epochs: How long it learns by default.
        lr: At what rate.
    """
    options = (
        click.option("--data", help="Training images.  [default: what the model has learnt from]"),
        click.option(
            "--data-root", type=click.Path(path_type=Path), help="Where named data sets lie."
        ),
        click.option(
            "--split", help="Part of the data set; never that of the test.  [default: train]"
        ),
        click.option("--n", type=int, help="How many examples, evenly from the classes."),
        click.option(
            "--size", type=int, default=32, show_default=True, help="Side for mixed image sizes."
        ),
        click.option("--download", is_flag=True, help="Fetch a named data set that is not here."),
        click.option(
            "--epochs", type=int, default=epochs, show_default=True, help="Passes over the data."
        ),
        click.option(
            "--batch-size", type=int, default=128, show_default=True, help="Examples per step."
        ),
        click.option("--lr", type=float, default=lr, show_default=True, help="Learning rate."),
        click.option(
            "--seed", type=int, help="Of all randomness.  [default: the saved model's, else 0]"
        ),
        click.option(
            "--set", "settings", multiple=True, help="Anything else: --set KEY=VALUE. Repeatable."
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:i]."),
        click.option(
            "--out", type=click.Path(path_type=Path), required=True, help="Folder for the result."
        ),
        click.option("--resume", is_flag=True, help="Go on with the run in --out."),
    )

    def decorated(command: Command) -> Command:
        @functools.wraps(command)
        def packed(**given: Any) -> int:  # noqa: ANN401 - options of any kind
            own = {field.name: given.pop(field.name) for field in dataclasses.fields(Lesson)}
            try:
                return command(lesson=Lesson(**own), **given)
            except KeyboardInterrupt:
                return _interrupted()

        found: Command = packed
        for option in reversed(options):
            found = option(found)
        return found

    return decorated


def _interrupted() -> int:
    """Say how to go on, and give the exit code."""
    from robustkit.cli import INTERRUPTED, command_line

    given: list[str] | None = click.get_current_context().find_root().obj
    words = sys.argv[1:] if given is None else given
    again = command_line([*words, *([] if "--resume" in words else ["--resume"])])
    click.echo(f"Interrupted. Go on with:\n  {again}", err=True)
    return INTERRUPTED
