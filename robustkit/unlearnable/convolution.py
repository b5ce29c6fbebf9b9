"""CUDA: images filtered class by class, so that what is learnt from them is the filter."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor

from robustkit.attacks.base import Learner, Poisoned, PoisoningAttack
from robustkit.data import LabelledImages, computed
from robustkit.data.computing import as_bytes
from robustkit.errors import BadInput, DoesNotFit
from robustkit.randomness import Streams
from robustkit.threat_models import Convolutions, ThreatModel
from robustkit.unlearnable.filters import (
    Rounding,
    class_filters,
    filtered,
    legacy_filters,
)
from robustkit.unlearnable.keys import Key
from robustkit.unlearnable.share import stratified


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvolutionUnlearnable(PoisoningAttack):
    """One secret random filter per class, the brightness restored, rounded to bytes (CUDA).

    What trains on such images learns which filter they went through. Nothing here is small or
    imperceptible: images are blurred, brightened and shifted by up to half a kernel. Nor is it
    protection: see `robustkit unlearn audit`.

    The kernel's size is the threat model's, as a radius is elsewhere: 3 for images of 32 pixels, 9
    with p_b=0.06 for photographs. The share of changed images is its poison rate, exact and even
    over the classes. Images stored as float32 are rounded to bytes first, the unchanged ones too.

    The data that `run` returns is computed when it is read, on the device of the streams; nothing
    but labels is held in memory. The filters follow from the key alone; which images are changed,
    where not all are, follows from the streams, which need a secret seed where that matters
    (`Key.number`).

    Attributes:
        key: Gives the filters. Needed unless `legacy_seed` is given.
        p_b: The largest tap but for the one that is 1, in [0, 1].
        rounding: `floor`, or `round` to the nearest level.
        legacy_seed: Instead of a key, the seed of the authors' script, to replicate its filters.
            It has 32 bits and can be guessed: no secret.

    Raises:
        BadInput: No key, a key and a legacy seed, or values that are not allowed.

    Reference:
        Sadasivan, Soltanolkotabi, Feizi: CUDA: Convolution-based unlearnable datasets. CVPR 2023.

    Differs from the reference:
        The key has 128 bits or more and goes through HMAC-SHA-256; theirs is a seed of a global
        generator, 0 by default. Taps are multiples of 2**-24 and results are exact, so that they do
        not depend on batch or device; theirs are float32, whose last bit decides where a quotient
        is a whole number, as in flat regions. The share of changed images is exact and drawn apart
        from the filters; theirs is a coin per image, from the same generator. Black images are
        copied; theirs become 0 / 0. The padding fits every kernel; theirs fits 3. All images are
        filtered in batches of mixed classes; theirs one by one.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"convolution"})
    trains: ClassVar[bool] = False

    key: Key | None = None
    p_b: float = 0.3
    rounding: Rounding = "floor"
    legacy_seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if (self.key is None) == (self.legacy_seed is None):
            raise BadInput(
                "CUDA needs a key, or else the legacy_seed of the authors' script: one of the two."
            )
        if self.rounding not in get_args(Rounding):
            allowed = ", ".join(get_args(Rounding))
            raise BadInput(f"The rounding is {self.rounding!r}; use one of: {allowed}.")
        if not 0 <= self.p_b <= 1:
            raise BadInput(f"p_b is {self.p_b}; it must lie in [0, 1].")
        if self.legacy_seed is not None and not 0 <= self.legacy_seed < 2**32:
            raise BadInput(f"The legacy seed is {self.legacy_seed}; it must lie in [0, 2**32).")

    def run(
        self,
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Learner,
        streams: Streams,
    ) -> Poisoned:
        """Filter the images of each class; see `PoisoningAttack.run`. Nothing is trained."""
        self.check(threat)
        filters, changed = self.draw(data, threat, streams)
        filters = filters.to(streams.ids.device)

        def change(stored: Tensor, rows: Tensor) -> Tensor:
            clean, chosen = as_bytes(stored), changed[rows]
            if bool(chosen.all()):
                return filtered(clean, data.labels[rows], filters, rounding=self.rounding)
            result = clean.clone()
            result[chosen] = filtered(
                clean[chosen], data.labels[rows][chosen], filters, rounding=self.rounding
            )
            return result

        return Poisoned(data=computed(data, change, spec=f"cuda of {data.spec}"), changed=changed)

    def draw(
        self, data: LabelledImages, threat: ThreatModel, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        """The filters of the classes, and which examples go through them.

        Returns:
            (classes, kernel, kernel) int64 in units of 2**-24, and (N,) bool, on the CPU.
        """
        size, share = _kernel(threat), threat.budget.poison_rate or 0.0
        changed = stratified(data.labels, share, streams).cpu()
        if self.legacy_seed is not None:
            return legacy_filters(self.legacy_seed, data.classes, size, self.p_b), changed
        assert self.key is not None  # noqa: S101 - said for the type checker
        return class_filters(self.key, data.classes, size, self.p_b), changed


def _kernel(threat: ThreatModel) -> int:
    allowed = threat.perturbation
    if not isinstance(allowed, Convolutions):
        raise DoesNotFit(f"The threat model {threat.name!r} has no kernel.")
    return allowed.kernel
