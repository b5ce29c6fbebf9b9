"""Checks before a run: do model and data fit, and can the answers be attacked as they are?"""

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustkit.attacks.losses import cross_entropy, margin
from robustkit.data import LabelledImages
from robustkit.errors import BadInput, DoesNotFit, RobustkitError
from robustkit.evaluation.conditions import memory_shortage
from robustkit.evaluation.flags import random_answers
from robustkit.passes import Passes, widest
from robustkit.randomness import Streams
from robustkit.report import Flag
from robustkit.report.parts import Severity
from robustkit.threat_models import Access, Meter, Objective, Targeted, ThreatModel
from robustkit.threat_models.answering import most

# More rows than this bring no speed, only padding when few examples are left.
_ROWS = {"cpu": 64, "cuda": 512}
# Examples about which a model is asked twice whose answers may cost something.
_FEW = 8
# Identical calls: two about all examples of the checks, the others about the first few.
_CALLS, _REPEATED = 5, 4


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the checks found.

    Attributes:
        classes: How many classes the model knows.
        width: Rows in which the model can be run.
        flags: What the reader of the report should know.
        passes: What the checks cost; not part of the evaluation's cost.
        blind: (N,) bool, for the first examples: attacks see no slope, whatever loss they raise.
        reproducible: Whether the model answers the same again, given the same streams.
        differentiable: Whether its answers carry a gradient, be it zero.
    """

    classes: int
    width: int
    flags: list[Flag]
    passes: Passes
    blind: Tensor
    reproducible: bool
    differentiable: bool


def inspect(
    model: nn.Module,
    data: LabelledImages,
    threat: ThreatModel,
    *,
    device: torch.device,
    seed: int,
    width: int | None,
) -> Inspection:
    """Run the model on the first examples and look at its answers and gradients.

    Args:
        model: In eval mode, parameters frozen.
        data: The examples.
        threat: The adversary.
        device: Where the model is.
        seed: Of a random model's draws.
        width: Rows in which the model shall be run; None for the largest that fits, at most 64 on a
            CPU and 512 on a GPU, or as many as a deployed classifier takes at once.

    Raises:
        DoesNotFit: The adversary sees more of the model than the model shows; nothing was asked.
        BadInput: The model and the data do not fit, or the model is not in float32.
        DeviceLost: Not one example fits into memory.
    """
    _check_access(model, threat)
    _check_tensors(model)
    _check_range(data, threat)
    probe = _Probe(model, data, device, seed)
    if most(model) is Access.DECISION:
        # Somebody else's memory: it says itself how much it takes.
        probe.run(_FEW)
        fits = width or int(getattr(model, "batch", 1))
    else:
        kept = _kept(probe)
        wished = width or _fitting(kept, device, min(len(data), _ROWS.get(device.type, 64)))
        fits = widest(probe.run, wished)
    classes = probe.first.shape[1]
    worst = int(data.labels.max())
    if worst >= classes:
        raise BadInput(
            f"The data has the label {worst}, but the model answers {classes} classes (0 to "
            f"{classes - 1}). Give a model and data that belong together."
        )
    flags = [
        *(_deployed_flags() if most(model) is Access.DECISION else _answer_flags(probe.first)),
        *_draw_flags(probe),
        *_gradient_flags(probe.gradient, threat),
    ]
    random = any(flag.id == "F1" for flag in flags)
    reproducible = bool(getattr(model, "stochastic", False)) or not random
    return Inspection(
        classes=classes,
        width=fits,
        flags=flags,
        passes=probe.passes,
        blind=(probe.gradient.flatten(1) == 0).all(1).cpu(),
        reproducible=reproducible,
        differentiable=probe.carries_gradient,
    )


def every_loss(logits: Tensor, objective: Objective) -> Tensor:
    """(N,) what has a slope wherever a loss of our attacks has one.

    The cross-entropy alone underflows where the lead is large; the margin alone sees two classes.
    """
    return cross_entropy(logits, objective) + margin(logits, objective)


class _Probe:
    """Asks the model twice about the first examples and takes one gradient."""

    first: Tensor
    second: Tensor
    gradient: Tensor
    carries_gradient: bool
    meter: Meter

    def __init__(
        self, model: nn.Module, data: LabelledImages, device: torch.device, seed: int
    ) -> None:
        self.model = model
        self.passes = Passes()
        self._data = data
        self._device = device
        self._seed = seed

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(min(len(self._data), count))
        return self._data.inputs(rows).to(self._device), rows.to(self._device)

    def run(self, width: int) -> None:
        inputs, payers = self.rows(width)
        ids = self._data.ids[: len(inputs)].to(self._device)
        streams = Streams.of(seed=self._seed, ids=ids, purpose="guards")
        meter = Meter(self.model, streams, width=width)
        variable = inputs.clone().requires_grad_()
        answered = self._ask(meter, variable, payers)
        labels = self._data.labels[: len(inputs)].to(self._device).clamp_max(answered.shape[1] - 1)
        self.first, self.carries_gradient = answered.detach(), answered.requires_grad
        self.gradient = torch.zeros_like(inputs)
        if answered.requires_grad:
            gradient = self._slope(answered, Objective(labels), variable)
            self.gradient = self.gradient if gradient is None else gradient
        with torch.no_grad():
            self.second = self._ask(meter, inputs, payers)
        self.meter = meter
        self.passes += meter.ledger.passes

    def _slope(self, logits: Tensor, objective: Objective, inputs: Tensor) -> Tensor | None:
        """The gradient of what attacks raise; None where there is none."""
        try:
            with memory_shortage():
                loss = every_loss(logits, objective).sum()
                (gradient,) = torch.autograd.grad(loss, inputs, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the model's own code, which an adversary without gradients never runs
            self.carries_gradient = False
            return None
        found: Tensor | None = gradient
        return found

    def differing(self) -> int:
        """How many examples are answered differently in identical calls, each with new draws."""
        differs = _differs(self.first, self.second)
        inputs, payers = self.rows(min(_REPEATED, len(self.first)))
        few = slice(len(inputs))
        before = self.meter.ledger.passes
        for _ in range(_CALLS - 2):
            with torch.no_grad():
                again = self._ask(self.meter, inputs, payers)
            differs[few] |= _differs(self.first[few], again)
        after = self.meter.ledger.passes
        self.passes += Passes(
            forward=after.forward - before.forward, rows_run=after.rows_run - before.rows_run
        )
        return int(differs.sum())

    def _ask(self, meter: Meter, inputs: Tensor, payers: Tensor) -> Tensor:
        try:
            with memory_shortage():
                logits = meter.ask(inputs, payers).logits
        except (torch.OutOfMemoryError, RobustkitError):
            raise
        except Exception as error:  # the model's own code, which may raise anything
            # Torch says it both ways; the input is a leaf, which must not be written to.
            if "in-place" in str(error) or "inplace" in str(error):
                raise BadInput(
                    f"The model changes its input in place ({_told(error)}), which also changes "
                    "what an attack hands in. Write x = x - 0.5, not x -= 0.5."
                ) from error
            shape = " x ".join(str(side) for side in inputs.shape[1:])
            raise BadInput(
                f"The model cannot take images of {shape} (channels x height x width): "
                f"{_told(error)}. Give data of the size the model was made for."
            ) from error
        if logits.shape[1] < 2 or logits.dtype not in (torch.float32, torch.float64):
            raise BadInput(
                f"The model answers {logits.shape[1]} classes in {logits.dtype}; it must answer at "
                "least two, in float32."
            )
        return logits


def _told(error: Exception) -> str:
    """What an error says, without the full stop."""
    return str(error).strip().rstrip(".") or type(error).__name__


def _check_access(model: nn.Module, threat: ThreatModel) -> None:
    """Refuse an adversary, or a choice of targets, that a model of labels cannot serve."""
    if most(model) >= Access.SCORE:
        return
    if threat.access > most(model):
        raise DoesNotFit(
            f"The model answers labels and nothing else, and the threat model {threat.name!r} "
            f"grants {threat.access} access. Use --threat l2-decision or linf-decision, or "
            "--access decision with attacks that need no more."
        )
    if isinstance(threat.goal, Targeted) and threat.goal.selection in ("least-likely", "second"):
        raise DoesNotFit(
            f"Targets by {threat.goal.selection!r} are chosen by scores, and the model answers "
            "labels and nothing else. Use --goal targeted:random."
        )


def _check_tensors(model: nn.Module) -> None:
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise BadInput(
            "The model was made under torch.inference_mode(), so that torch differentiates nothing "
            "through it. Make it outside, or give copy.deepcopy(model)."
        )
    wrong = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    wrong |= {b.dtype for b in model.buffers()} & {torch.float16, torch.bfloat16}
    if wrong:
        found = ", ".join(sorted(str(dtype) for dtype in wrong))
        raise BadInput(
            f"The model's weights are {found}; verdicts are made in float32. Convert it: "
            f"model.float()."
        )


def _check_range(data: LabelledImages, threat: ThreatModel) -> None:
    """Refuse clean images that the adversary could not hand in unchanged; data lie in [0, 1]."""
    low, high = threat.allowed.low, threat.allowed.high
    if low <= 0 and high >= 1:
        return
    for rows in data.chunks():
        if not bool(threat.allowed.in_box(data.inputs(rows)).all()):
            raise BadInput(
                f"The threat model {threat.name!r} allows values in [{low}, {high}], and the data "
                "hold others. Give low = 0 and high = 1."
            )


def _differs(logits: Tensor, again: Tensor) -> Tensor:
    """(N,) bool: the rows that are not the same to the bit."""
    return ((logits != again) & ~(logits.isnan() & again.isnan())).any(1)


def _answer_flags(logits: Tensor) -> list[Flag]:
    flags = []
    if not bool(logits.isfinite().all()):
        flags.append(
            _flag("non-finite-logits", "warn", "The model answers NaN or infinity to clean images.")
        )
    sums = logits.sum(1)
    if bool(((logits >= 0) & (logits <= 1)).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        text = (
            "The model seems to answer probabilities. Attacks need logits: leave the softmax out."
        )
        flags.append(_flag("probabilities", "warn", text))
    return flags


def _deployed_flags() -> list[Flag]:
    text = (
        "The model is behind an address: its hash is that of the address and of what the server "
        "says about itself, not of weights, and nobody can tell whether it stayed the same."
    )
    return [_flag("deployed-model", "info", text)]


def _draw_flags(probe: _Probe) -> list[Flag]:
    found = random_answers(probe.differing(), len(probe.first), _CALLS)
    return [] if found is None else [found]


def _gradient_flags(gradient: Tensor, threat: ThreatModel) -> list[Flag]:
    if threat.access < Access.GRADIENT:
        return []
    if not bool(gradient.isfinite().all()):
        text = "Gradients are NaN or infinite on clean images: gradient attacks cannot be believed."
        return [_flag("non-finite-gradient", "void", text)]
    return []


def _flag(name: str, severity: Severity, message: str) -> Flag:
    return Flag(id=name, severity=severity, message=message)


def _kept(probe: _Probe) -> int:
    """Ask about one example; how many bytes are kept for gradients meanwhile."""
    known = {tensor.data_ptr() for tensor in (*probe.model.parameters(), *probe.model.buffers())}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.data_ptr() not in known:
            kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        probe.run(1)
    return kept


def _fitting(kept: int, device: torch.device, width: int) -> int:
    """Halve the width until what its rows keep for gradients fits into a quarter of the memory.

    A CPU does not say that memory is short; the system ends the process instead.
    """
    if device.type != "cpu":
        return width
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    while width > 1 and width * kept > memory / 4:
        width //= 2
    return width
