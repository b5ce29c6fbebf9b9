"""One training, from its first step or from a checkpoint to its end."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DeviceLost
from robustkit.randomness import seed_generators
from robustkit.training.batch import Batch
from robustkit.training.checkpoints import Checkpoints
from robustkit.training.describing import identity
from robustkit.training.feeding import Feed
from robustkit.training.fitting import check_fit
from robustkit.training.history import Board, NoBoard, write_history
from robustkit.training.losses.base import (
    Loss,
    around,
    load_state,
    probe,
    replays,
    state_of,
    stop,
)
from robustkit.training.meters import Means
from robustkit.training.mixing import Extra, Pool
from robustkit.training.result import Snapshot, TrainResult
from robustkit.training.runtime import Session
from robustkit.training.signals import Asked, listening

if TYPE_CHECKING:
    from robustkit.training.trainer import Trainer

# On a GPU, steps between two looks at whether the loss is still a number: each look waits for it.
_LOOK = 20
_logger = logging.getLogger(__name__)


class Run:
    """The state of one training: where it is and what it has."""

    def __init__(
        self,
        trainer: "Trainer",
        session: Session,
        model: nn.Module,
        data: LabelledImages,
        extra: Extra | None,
        loss: Loss,
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        """Make ready; the model is in the modes of training, not yet on its device.

        Args: what to do, by which process, on what, and the parameters to be changed by name.
        """
        self.trainer = trainer
        self.session = session
        self.model = model
        self.loss = loss
        self.parameters = parameters
        learnt = data
        self.held_out: LabelledImages | None = None
        if trainer.selection is not None:
            learnt, self.held_out = trainer.selection.split(data, trainer.seed)
        self.feed = Feed(
            pool=Pool(learnt, extra),
            batch_size=min(trainer.batch_size, len(learnt)),
            accumulate=trainer.accumulate,
            augmentation=trainer.augmentation,
            seed=trainer.seed,
            session=session,
        )
        self.checkpoints = self._checkpoints(data)
        self.epoch = self.step = self.updates = 0
        self.history: list[dict[str, Any]] = []
        self.means = Means()
        self.best: Snapshot | None = None
        self.good: Snapshot | None = None
        self.stopped_by: str | None = None
        self._bad = torch.zeros((), dtype=torch.bool)

    def go(self) -> TrainResult:
        """Train to the end; the model is on its device."""
        self.session.same(self.model)
        check_fit(self.model, self.feed.pool, self.session)
        self.wrapped = self.session.wrap(self.model)
        self.optimizer = self.trainer.optimizer.start(self.parameters.values())
        averaging = self.trainer.averaging
        self.averaged = None if averaging is None else averaging.start(self.model)
        self._bad = self._bad.to(self.session.device)
        self._restore()
        board = self._board()
        enabled = self.trainer.out is not None
        with listening(enabled=enabled) as asked, contextlib.closing(board):
            while self.epoch < self.trainer.epochs and self.stopped_by is None:
                self._train(asked)
                whole = self.step == self.feed.steps
                if self.stopped_by is None or (self.stopped_by == "max_steps" and whole):
                    self._finish_epoch(board)
        return self._result()

    # What a step does.

    def _train(self, asked: Asked) -> None:
        """The steps that are left of this epoch."""
        order = self.feed.order(self.epoch)
        self.began = time.monotonic()
        progress = self.trainer.progress
        if self.session.main:
            progress.begin(
                epochs=self.trainer.epochs,
                steps=self.feed.steps,
                epoch=self.epoch,
                step=self.step,
            )
        while self.step < self.feed.steps and self.stopped_by is None:
            try:
                self._update(self.feed.batches(order, self.epoch, self.step))
            except torch.OutOfMemoryError as error:
                raise DeviceLost(
                    f"A batch of {self.feed.batch_size} does not fit into the device's memory. "
                    "Accumulate it in more parts, or give a smaller batch size."
                ) from error
            self.step += 1
            self.updates += 1
            self._look(asked)
            if self.session.main:
                progress.step()
        if self.stopped_by in ("signal", "max_steps"):
            self._save()

    def _update(self, batches: list[Batch]) -> None:
        """Step on one batch, as often as the loss wants."""
        rate = self.trainer.optimizer.lr * self._factor()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for replay in range(replays(self.loss)):
            self.optimizer.zero_grad(set_to_none=True)
            for number, batch in enumerate(batches):
                batch.replay = replay
                last = number + 1 == len(batches)
                self._backward(batch, parts=len(batches), number=number, last=last)
            if self.trainer.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters.values(), self.trainer.clip)
            self.optimizer.step()
            self.session.average_buffers(self.model)
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)

    def _backward(self, batch: Batch, *, parts: int, number: int, last: bool) -> None:
        place = (self.epoch, self.step, batch.replay, number, self.session.rank)
        seed_generators(_key(self.trainer.seed, place), self.session.device)
        with contextlib.ExitStack() as stack:
            if not last and self.wrapped is not self.model:
                stack.enter_context(self.wrapped.no_sync())  # type: ignore[operator]
            with self.session.autocast():
                stack.enter_context(around(self.loss, self.wrapped, batch))
                value = self.loss(self.wrapped, batch)
            if value.ndim or not value.requires_grad:
                raise BadInput(
                    f"The loss {type(self.loss).__name__} gave a value of shape "
                    f"{tuple(value.shape)}; it must give one number that depends on the model."
                )
            (value / parts).backward()  # type: ignore[no-untyped-call]
        self._bad |= ~value.detach().isfinite()
        self.means.add({"loss": value.detach(), **batch.notes})

    def _factor(self) -> float:
        scores = [] if self.trainer.selection is None else self._scores()
        place = self.epoch + self.step / self.feed.steps
        return self.trainer.schedule.factor(place, self.trainer.epochs, scores)

    def _scores(self) -> list[float]:
        if self.trainer.selection is None:
            return []
        metric = self.trainer.selection.score.metric
        return [record[metric] for record in self.history if metric in record]

    def _look(self, asked: Asked) -> None:
        """Stop if the loss is no number or if the run was asked to end; save if it is time."""
        due = self.trainer.checkpoint_steps
        saving = due is not None and self.updates % due == 0
        over = self.trainer.max_steps is not None and self.updates >= self.trainer.max_steps
        every = _LOOK if self.session.device.type == "cuda" else 1
        if not (saving or over or self.step == self.feed.steps or self.step % every == 0):
            return
        # All processes must come to the same decision.
        told = torch.stack([self._bad, torch.full_like(self._bad, asked.yes)]).float()
        bad, ending = (self.session.sum(told) > 0).tolist()
        if bad:
            self.stopped_by = "diverged"
        elif ending:
            self.stopped_by = "signal"
        elif over:
            self.stopped_by = "max_steps"
        elif saving:
            self._save()

    # What happens after an epoch.

    def _finish_epoch(self, board: Board | NoBoard) -> None:
        seconds = time.monotonic() - self.began
        self.epoch += 1
        self.step = 0
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "steps": self.updates,
            "lr": self.optimizer.param_groups[0]["lr"],
            **self.means.take(self.session),
            **self._probe(),
            **self._score(),
            "seconds": round(seconds, 3),
        }
        self.history.append(record)
        reason = stop(self.loss, self.history)
        if reason is not None:
            self.stopped_by = reason
            self.epoch -= 1  # it goes back to the epoch before
        else:
            self._keep(record)
            self._save()
        if self.session.main:
            if self.trainer.out is not None:
                write_history(self.trainer.out, self.history)
            board.epoch(record)
            self.trainer.progress.epoch(record)

    def _probe(self) -> dict[str, float]:
        """What the loss measures on training examples."""
        if not hasattr(self.loss, "probe"):
            return {}
        found = probe(self.loss, self.model, self.feed.fixed())
        return {name: float(values.mean(dtype=torch.float64)) for name, values in found.items()}

    def _score(self) -> dict[str, float]:
        """How the model does on what was held out."""
        selection = self.trainer.selection
        over = self.epoch == self.trainer.epochs
        if (
            selection is None
            or self.held_out is None
            or (self.epoch % selection.every and not over)
        ):
            return {}
        return selection.measure(
            self._current(), self.held_out, seed=self.trainer.seed, session=self.session
        )

    def _current(self) -> nn.Module:
        """The model that is scored and given back: the average where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def _keep(self, record: Mapping[str, Any]) -> None:
        """Take a copy of the weights, and of the best so far."""
        selection = self.trainer.selection
        score = None if selection is None else record.get(selection.score.metric)
        self.good = Snapshot.of(self._current(), epoch=self.epoch, score=score)
        best = None if self.best is None else self.best.score
        if selection is None or (score is not None and (best is None or score > best)):
            self.best = self.good

    # What survives the process.

    def _checkpoints(self, data: LabelledImages) -> Checkpoints | None:
        out = self.trainer.out
        if out is None:
            return None
        asked = identity(
            self.trainer, self.model, self.loss, self.parameters, data=data, pool=self.feed.pool
        )
        checkpoints = Checkpoints(out, asked)
        if not self.trainer.resume and (checkpoints.exist() or (out / "robustkit.json").exists()):
            raise BadInput(
                f"{str(out)!r} already holds a run. Add --resume to go on with it if it is the "
                "same, or choose another --out."
            )
        return checkpoints

    def _save(self) -> None:
        if self.checkpoints is None or not self.session.main:
            return
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "loss": state_of(self.loss),
            "means": self.means.state_dict(),
            "history": json.dumps(self.history),
            "best": None if self.best is None else self.best.packed(),
            # Mostly the same snapshot: tensors that are shared are stored once.
            "good": None if self.good is None else self.good.packed(),
        }
        self.checkpoints.save(state, self.updates)

    def _restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        state = None
        if self.checkpoints is not None and self.trainer.resume:
            state = self.checkpoints.load()
        if state is None:
            return
        self.epoch, self.step = state["epoch"], state["step"]
        self.updates = self.epoch * self.feed.steps + self.step
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        load_state(self.loss, state["loss"])
        self.means = Means.of(state["means"], self.session.device)
        self.history = json.loads(state["history"])
        self.best, self.good = map(Snapshot.unpacked, (state["best"], state["good"]))

    def _board(self) -> Board | NoBoard:
        out = self.trainer.out
        if not self.trainer.tensorboard or out is None or not self.session.main:
            return NoBoard()
        return Board(out / "tensorboard", after=self.epoch)

    # The end.

    def _result(self) -> TrainResult:
        stopped_by = self.stopped_by or "epochs"
        last = self.good
        if stopped_by == "diverged":
            last = self._last_good()
        elif last is None or self.step:
            # Ended within an epoch: the weights of now, which nobody has scored.
            last = Snapshot.of(self._current(), epoch=self.epoch, score=None)
        best = self.best or last
        best.load_into(self.model)
        return TrainResult(best, last, tuple(self.history), stopped_by)

    def _last_good(self) -> Snapshot:
        """What there was before the loss became no number."""
        place = f"in epoch {self.epoch + 1}, step {self.step} of {self.feed.steps}"
        advice = "Lower the learning rate, or clip gradients."
        if self.good is None:
            raise BadInput(f"The loss became NaN or infinite {place}. {advice}")
        _logger.warning(
            "The loss became NaN or infinite %s; the weights of epoch %d are kept. %s",
            place,
            self.good.epoch,
            advice,
        )
        return self.good


def _key(seed: int, place: tuple[int, ...]) -> int:
    """A seed of torch's generators for one part of one step."""
    text = f"{seed} {place}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
