"""LQ-VAE: a classifier behind an autoencoder with a code of two values, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit import models
from robustkit.data import LabelledImages
from robustkit.defenses.base import Defended, Defense, only
from robustkit.defenses.ensembles import always, asked, options, stand_in
from robustkit.defenses.lipschitz_filter import Kind, LipschitzFilter
from robustkit.errors import BadInput, CorruptFile, ShapeMismatch
from robustkit.randomness import Streams
from robustkit.threat_models import Output, ThreatModel, answer
from robustkit.training import Batch, Trainer
from robustkit.training.options import build

# How an adversary looks at the filter: as it is, by one of its codes, or as though it did nothing.
Look = Kind | Literal["identity"]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a filter learns: to give images back, with latent numbers near the standard normal.

    Attributes:
        kl: Weight of the mean Kullback-Leibler divergence, beside the mean squared error of pixels.
    """

    kl: float = 0.025

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch; labels play no part."""
        rows: Tensor = model(batch.inputs, batch.streams.fork("latent")).float()
        pixels = batch.inputs[0].numel()
        mean, log_variance = rows[:, pixels:].chunk(2, dim=1)
        error = F.mse_loss(rows[:, :pixels], batch.inputs.flatten(1))
        spread = mean.square() + log_variance.exp() - 1 - log_variance
        batch.notes["squared_error"] = error.detach()
        return error + self.kl * spread.mean() / 2


class _Learning(nn.Module):
    """A filter as it learns, by its straight-through code.

    The trainer wants a row of numbers for each image: its pixels as they come back, all means, and
    all logarithms of variances.
    """

    def __init__(self, filtering: LipschitzFilter) -> None:
        super().__init__()
        self.filtering = filtering

    def forward(self, inputs: Tensor, streams: Streams | None = None) -> Tensor:
        own = self.filtering
        mean, log_variance = own.encode(inputs)
        latent = own.drawn(mean, log_variance, streams or always(inputs))
        images = own.decode(own.code(latent, "straight-through"))
        return torch.cat([part.flatten(1) for part in (images, mean, log_variance)], dim=1)


class Filtered(Defended):
    """A classifier that sees what a filter gives back.

    Its own gradient is exactly zero everywhere: the code does not move when the image does.

    Attributes:
        classifier: Answers; what it refuses or names is passed on.
        filtering: The filter.
        sampled: Whether the filter draws around its means.
        stochastic: Whether the filter or the classifier draws at random.
    """

    def __init__(
        self, classifier: nn.Module, filtering: LipschitzFilter, *, sampled: bool = True
    ) -> None:
        """Put the filter in front of the classifier; both are shared, not copied.

        Raises:
            BadInput: The classifier answers labels and nothing else.
        """
        super().__init__()
        if models.labels_only(classifier):
            raise BadInput(
                "The classifier answers labels and nothing else, and a filter needs one whose "
                "gradients show what it is worth."
            )
        self.classifier = classifier
        self.filtering = filtering
        self.sampled = sampled
        self.stochastic = sampled or bool(getattr(classifier, "stochastic", False))

    def purified(
        self, inputs: Tensor, streams: Streams | None = None, *, look: Look = "hard"
    ) -> Tensor:
        """(N, C, H, W) what the classifier sees.

        Args:
            inputs: (N, C, H, W) in [0, 1].
            streams: One per image; may be None only where the filter does not draw.
            look: What the gradient is taken of: a code of the filter, or `identity`, which has the
                filter's images and passes the gradient around it.

        Raises:
            BadInput: No streams for a filter that draws.
            ShapeMismatch: The filter takes other images.
        """
        if self.sampled and streams is None:
            raise BadInput("The filter draws at random: give one stream per image.")
        own = streams.fork("latent") if self.sampled and streams is not None else None
        if look != "identity":
            images: Tensor = self.filtering(inputs, own, kind=look)
            return images
        with torch.no_grad():
            change: Tensor = self.filtering(inputs, own) - inputs
        return inputs + change

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The classifier's answers to what comes through; see `Defended`."""
        return self.looked_at(inputs, streams, "hard", self.classifier)

    def looked_at(
        self, inputs: Tensor, streams: Streams | None, look: Look, classifier: nn.Module
    ) -> Output:
        """The same by another look at the filter, or with another classifier behind it."""
        images = self.purified(inputs, streams, look=look)
        own = None if streams is None else streams.fork("classifier")
        return answer(classifier, images, own)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, K) logits; a filter that draws always draws alike, row by row."""
        streams = always(inputs) if self.stochastic else None
        return self.answer(inputs, streams=streams).logits

    def surrogates(self) -> Mapping[str, nn.Module]:
        """What an adversary attacks in place of a model without gradients.

        `average`, first, for a filter that draws: the code is what it is on average, with the true
        slope of that average, without any noise. `unquantised`: the filter with its soft code.
        `straight-through`: its own code, with the gradient of the soft one. `identity`: its own
        images, with a gradient that passes around it. `classifier`: no filter. Of a classifier that
        names stand-ins itself, the first is taken.
        """
        drawing: Mapping[str, Look] = {"average": "average"} if self.sampled else {}
        looks: Mapping[str, Look] = {
            **drawing,
            "unquantised": "soft",
            "straight-through": "straight-through",
            "identity": "identity",
        }
        plain = stand_in(self.classifier)
        through = {name: _Look(self, look, plain) for name, look in looks.items()}
        return {**through, "classifier": plain}


class _Look(Defended):
    """A filtered classifier as an adversary looks at it."""

    def __init__(self, filtered: Filtered, look: Look, classifier: nn.Module) -> None:
        super().__init__()
        self.filtered = filtered
        self.look: Look = look
        self.classifier = classifier
        self.stochastic = filtered.sampled or bool(getattr(classifier, "stochastic", False))

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return self.filtered.looked_at(inputs, streams, self.look, self.classifier)

    def forward(self, inputs: Tensor) -> Tensor:
        streams = always(inputs) if self.stochastic else None
        return self.answer(inputs, streams=streams).logits


@dataclass(frozen=True, kw_only=True)
class LQVAE(Defense):
    """A filter in front of any classifier: a variational autoencoder with a code of two values.

    The filter sees neither the classifier nor attacks while it learns. What is claimed for it: the
    encoder moves little where the image moves little, so that the code does not move at all; and
    gradients do not pass the code, "which prevents gradient-based attacks". The second is an
    artefact. The gradient is exactly zero, an attack on the model itself finds nothing, and what
    it reports is the clean accuracy. The filtered classifier names stand-ins that carry gradients,
    see `Filtered.surrogates`, and an evaluation attacks them all, averages over draws where the
    filter draws, and raises F3 and F2. The number to quote is the worst case; it stands beside the
    plain classifier's in the benchmark `purifiers`, with the clean accuracy that the filter costs.

    Attributes:
        width: Channels of the filter's first layer.
        codes: Numbers of the code for each patch of 4 x 4 pixels.
        lipschitz: Bound of the encoder's mean, l2 to l2.
        window: Half the width of the window that has the value 1.
        kl: See `Reconstruction`.
        sampled: Draw around the means when answering, as in training; otherwise take the means.

    Raises:
        BadInput: A value that means nothing.

    Reference:
        Kyatham, Mishra, Yadav, Mishra, Prathosh: Variational inference with latent space
        quantization for adversarial resilience. 2019. Of the text only the abstract could be read;
        code, window, noise and loss are those of the code that was released for MNIST.

    Differs from the reference:
        The encoder is bounded by spectral norms; the released code pulls the length of the gradient
        of the sum of all latent numbers towards 0.1, which bounds nothing. One decoder learns
        through the hard code by a straight-through gradient; there, the encoder learns through a
        decoder of soft codes and the one that is used learns apart. The code is a map and not one
        vector, so that any size of image can be filtered. Adam in place of RMSProp.

    Reproduces:
        None of the published figures: how its white-box attacks passed the code is not said.
    """

    width: int = 16
    codes: int = 32
    lipschitz: float = 4.0
    window: float = 0.1
    kl: float = 0.025
    sampled: bool = True

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        self._filter(channels=1)
        if not 0 <= self.kl < float("inf"):
            raise BadInput(f"The weight kl is {self.kl}; give 0 or more.")

    def protect(
        self,
        models: Sequence[nn.Module],
        data: LabelledImages,
        threat: ThreatModel,
        *,
        trainer: Trainer,
        streams: Streams,
    ) -> Filtered:
        """The classifier behind a filter that has learnt these images; see `Defense`.

        Raises:
            BadInput: The classifier or the filter does not fit the images.
            KeyboardInterrupt: A signal asked the trainer to end; it has saved what it had.
        """
        self.check(threat)
        made = self.assembled(only(models, "LQVAE"), data.shape[0], seed=trainer.seed)
        images = data.inputs(torch.arange(min(2, len(data))))
        known = asked("The classifier", made.classifier, images).shape[1]
        if known < data.classes:
            raise BadInput(
                f"The classifier answers {known} classes, and the data has {data.classes}. Give "
                "data of the classifier's classes."
            )
        self._fits(images)
        loss = Reconstruction(kl=self.kl)
        if trainer.fit(_Learning(made.filtering), data, loss).stopped_by == "signal":
            raise KeyboardInterrupt
        return made.eval()

    def assembled(self, classifier: nn.Module, channels: int, *, seed: int = 0) -> Filtered:
        """The filtered classifier before anything was learnt.

        Args:
            classifier: What is behind the filter.
            channels: Of the images.
            seed: Of the filter's weights.
        """
        filtering = self._filter(channels=channels, seed=seed)
        device = next((one.device for one in classifier.parameters()), torch.device("cpu"))
        return Filtered(classifier, filtering.to(device), sampled=self.sampled)

    def arguments(self, classifier: Mapping[str, Any], *, channels: int) -> dict[str, Any]:
        """What builds the filtered classifier again, for `robustkit.models.save`.

        Args:
            classifier: What builds the classifier, as `robustkit.models.recipe` gives it.
            channels: Of the images.
        """
        return {"classifier": dict(classifier), "channels": channels, "options": options(self)}

    @classmethod
    def rebuild(
        cls, *, classifier: Mapping[str, Any], channels: int, options: Mapping[str, Any]
    ) -> Filtered:
        """The filtered classifier in its structure; its weights are still to be loaded.

        Args:
            classifier: What builds the classifier.
            channels: Of the images.
            options: Of this class.

        Raises:
            CorruptFile: They do not describe a filtered classifier.
        """
        made = build(cls, options, where="lq-vae")
        if not isinstance(channels, int):
            raise CorruptFile(f"The saved filter's channels are {channels!r}, which is no number.")
        return made.assembled(models.rebuild(classifier), channels)

    def _filter(self, *, channels: int, seed: int = 0) -> LipschitzFilter:
        return LipschitzFilter(
            channels=channels,
            width=self.width,
            codes=self.codes,
            lipschitz=self.lipschitz,
            window=self.window,
            seed=seed,
        )

    def _fits(self, images: Tensor) -> None:
        """Refuse images whose sides the filter cannot halve twice, in words of its own."""
        try:
            self._filter(channels=images.shape[1]).encode(images)
        except ShapeMismatch as error:
            raise BadInput(f"LQVAE cannot filter these images. {error}") from error
