"""One network asked many times: heads on its inner layers, and stacks of drawn images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustkit.defenses._trunk import Head, checked, inner_layers, passed
from robustkit.defenses.base import Defended
from robustkit.defenses.ensembles import Aggregation, always
from robustkit.defenses.multi_resolution_stack import MultiResolutionStack
from robustkit.defenses.peers import Only
from robustkit.errors import BadInput
from robustkit.models.frozen import frozen
from robustkit.models.layers import seeded
from robustkit.randomness import Streams
from robustkit.threat_models import Output

# Heads where nobody says on which layers.
_HEADS = 4


class SeesStacks(nn.Module):
    """A network behind a stack: takes images.

    Attributes:
        network: Takes stacks, (N, C R, S, S).
        stack: How they are made.
        upsample: Height to which they are brought for the network, bicubic; None leaves it.
    """

    def __init__(
        self, network: nn.Module, stack: MultiResolutionStack, upsample: int | None = None
    ) -> None:
        """Put the stack in front of the network."""
        super().__init__()
        if upsample is not None and upsample < 1:
            raise BadInput(f"Stacks are to be {upsample} px high; give at least 1, or none.")
        self.network = network
        self.stack = stack
        self.upsample = upsample

    def seen(self, inputs: Tensor, streams: Streams | None) -> Tensor:
        """What the network sees of (N, C, H, W) images."""
        stacked = self.stack(inputs, streams)
        if self.upsample is None:
            return stacked
        height, width = stacked.shape[-2:]
        size = (self.upsample, max(1, round(self.upsample * width / height)))
        return F.interpolate(stacked, size=size, mode="bicubic")

    def forward(self, inputs: Tensor, streams: Streams | None = None) -> Tensor:
        """(N, K) logits; without streams the draws are always the same."""
        logits: Tensor = self.network(self.seen(inputs, streams or always(inputs)))
        return logits


class SelfEnsemble(Defended):
    """A network of stacks whose inner layers answer too, each through a head of its own.

    The members are the heads, in the order of their layers, and the network itself as the last one.
    One pass serves all heads. The network is always in eval mode.

    Attributes:
        trunk: The network behind its stack.
        layers: Names of the modules whose outputs the heads read.
        heads: One for each.
        aggregation: The rule that makes one answer.
        second_pass: Whether the network answers to draws of its own, in a second pass.
        stochastic: Whether the stack draws at random.
    """

    def __init__(
        self,
        network: nn.Module,
        stack: MultiResolutionStack,
        aggregation: Aggregation,
        *,
        shape: tuple[int, int, int],
        layers: Sequence[str] = (),
        pooled: bool = True,
        second_pass: bool = True,
        upsample: int | None = None,
        seed: int = 0,
    ) -> None:
        """Put new heads on a network.

        Args:
            network: Takes stacks; see `widened`. It is shared, not copied.
            stack: How they are made.
            aggregation: The rule.
            shape: Channels, height and width of the images.
            layers: Names of modules; none takes up to four, behind which maps change shape.
            pooled: Average over places before a head; otherwise it reads all of them, which takes
                by far more weights.
            second_pass: Let the network answer to draws of its own.
            upsample: Height to which stacks are brought for the network.
            seed: Of the heads' weights.

        Raises:
            BadInput: The network cannot take such stacks, has no such layers, or the rule needs
                more members.
        """
        super().__init__()
        self.trunk = SeesStacks(network, stack, upsample)
        where = next((one.device for one in network.parameters()), torch.device("cpu"))
        blank = torch.zeros(1, *shape, device=where)
        seen = self.trunk.seen(blank, always(blank))
        checked(network, layers)
        with frozen(network), torch.no_grad():
            self.layers = tuple(layers) or _inner(network, seen)
            aggregation.check_members(len(self.layers) + 1)
            logits, activations = _tried(network, self.layers, seen)
        with seeded(seed):
            self.heads = nn.ModuleList(
                Head(one, logits.shape[1], pooled=pooled) for one in activations
            ).to(where)
        self.aggregation = aggregation
        self.pooled = pooled
        self.second_pass = second_pass
        self.stochastic = stack.random
        self.train(self.training)

    def train(self, mode: bool = True) -> "SelfEnsemble":
        """Put the heads in training mode or eval mode; the network stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def heads_only(self, inputs: Tensor, streams: Streams | None = None) -> tuple[Tensor, Tensor]:
        """(N, M - 1, K) logits of the heads, and (N, K) those of the network in the same pass."""
        seen = self.trunk.seen(inputs, streams)
        own, activations = passed(self.trunk.network, self.layers, seen)
        pairs = zip(self.heads, activations, strict=True)
        return torch.stack([head(one) for head, one in pairs], dim=1), own

    def votes(self, inputs: Tensor, *, streams: Streams | None = None) -> Tensor:
        """(N, M, K) logits of the heads and, behind them, of the network.

        Raises:
            BadInput: No streams for a stack that draws at random.
        """
        first = None if streams is None else streams.fork("first pass")
        heads, own = self.heads_only(inputs, first)
        if self.second_pass and self.stochastic and streams is not None:
            own = self.trunk(inputs, streams.fork("second pass"))
        return torch.cat([heads, own[:, None]], dim=1)

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        """The rule's answers to a batch; see `Defended`."""
        return Output(self.aggregation(self.votes(inputs, streams=streams)))

    def forward(self, inputs: Tensor, streams: Streams | None = None) -> Tensor:
        """(N, K) logits; without streams the draws are always the same, row by row."""
        return self.answer(inputs, streams=streams or always(inputs)).logits

    def surrogates(self) -> Mapping[str, nn.Module]:
        """The same members under plainer rules, and each of them alone.

        None where the rule hides nothing.
        """
        rules = dict(self.aggregation.stand_ins())
        if not rules:
            return {}
        for number, layer in enumerate(self.layers):
            rules[f"head-{layer}"] = Only(member=number)
        rules["backbone"] = Only(member=len(self.layers))
        return {name: _Under(self, rule) for name, rule in rules.items()}


class _Under(Defended):
    """The members of a self-ensemble under another rule."""

    def __init__(self, ensemble: SelfEnsemble, rule: Aggregation) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.rule = rule
        self.stochastic = ensemble.stochastic

    def answer(self, inputs: Tensor, *, streams: Streams | None = None) -> Output:
        return Output(self.rule(self.ensemble.votes(inputs, streams=streams)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer(inputs, streams=always(inputs)).logits


def _inner(network: nn.Module, seen: Tensor) -> tuple[str, ...]:
    try:
        return inner_layers(network, seen, _HEADS)
    except RuntimeError as error:
        raise _no_stacks(seen, error) from error


def _tried(network: nn.Module, layers: Sequence[str], seen: Tensor) -> tuple[Tensor, list[Tensor]]:
    try:
        return passed(network, layers, seen)
    except RuntimeError as error:
        raise _no_stacks(seen, error) from error


def _no_stacks(seen: Tensor, error: Exception) -> BadInput:
    shape = " x ".join(str(side) for side in seen.shape[1:])
    return BadInput(
        f"The network cannot take stacks of {shape} (channels x height x width): "
        f"{str(error).strip().rstrip('.')}."
    )
