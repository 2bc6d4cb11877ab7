"""Gates that learn which parts of a tower can go, before it is cut down (TinyCLIP, Wu et al. 2023, arXiv 2309.12314).

A tower has gates on its width (one vector for all layers, because of the residual stream), on the heads and on the MLP
units of each layer. Each is a hard-concrete variable (Louizos et al. 2018, arXiv 1712.01312): with b = 2/3 and
u uniform in (1e-6, 1 - 1e-6),

    z = clip(1.2 sigmoid((ln u - ln(1 - u) + log_alpha) / b) - 0.1, 0, 1),
    P(z > 0) = sigmoid(log_alpha - b ln(0.1 / 1.1)) = sigmoid(log_alpha + 1.5986).

Once learnt they settle: of each group of n, the round(n - sum P) smallest close, and the others keep a soft value.

Where we differ from the published code: equal gates close from the lowest index up, instead of in no order; what
settled gates keep is counted, and not reported from a wrong mask; a later stage has gates on just what an earlier one
kept, instead of near-closed gates on what is gone; the noise of a step follows from seed, step and rank, so that a
resumed run draws it again.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from assets.errors import ConfigError, message

_TEMPERATURE = 2 / 3
_LOW, _HIGH = -0.1, 1.1
"""The interval that a sigmoid is stretched to before it is clipped, so that exact zeros and ones are likely."""
_EPS = 1e-6
_START = 10.0
_LIMIT = math.log(100)
_SETTLED_SLOPE = 0.8 / _TEMPERATURE
_START_OF_MULTIPLIERS = 10.0
_GATES = 5
"""Sets the draws of gates apart from others that follow from seed, step and rank."""


class TowerSizes(NamedTuple):
    """A dense tower before anything was cut; what sparsity is a share of, in every stage.

    Attributes:
        layers: Number of transformer blocks, L.
        heads: Of each layer, H.
        width: Of the residual stream, W.
        units: Of each layer's MLP, F.
    """

    layers: int
    heads: int
    width: int
    units: int


class KeptCounts(NamedTuple):
    """How much of a tower is left.

    Attributes:
        hidden: Dimensions of the residual stream.
        heads: Of each layer, L of them.
        units: Of each layer's MLP, L of them.
    """

    hidden: int
    heads: tuple[int, ...]
    units: tuple[int, ...]


class GateValues(NamedTuple):
    """A number in [0, 1] for each gate of a tower; 0 for what an earlier stage has cut.

    Attributes:
        hidden: Of the residual stream, [W].
        heads: [L, H].
        units: Of the MLPs, [L, F].
    """

    hidden: Tensor
    heads: Tensor
    units: Tensor


class GateNoise(NamedTuple):
    """Uniform draws in (0, 1) for the gates of a tower.

    Attributes:
        hidden: [W].
        heads: [L, H].
        units: [L, F].
    """

    hidden: Tensor
    heads: Tensor
    units: Tensor


def hard_concrete(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Sample gates.

    Args:
        log_alpha: Any shape.
        noise: Uniform draws, inside (0, 1), same shape.

    Returns:
        z in [0, 1], same shape; no gradient where it was clipped.
    """
    stretched = torch.sigmoid((noise.log() - (1 - noise).log() + log_alpha) / _TEMPERATURE) * (_HIGH - _LOW) + _LOW
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of gates, within 1e-6 of 0 and 1 at most, same shape.

    Args:
        log_alpha: Any shape.
    """
    closed = torch.sigmoid(_TEMPERATURE * math.log(-_LOW / _HIGH) - log_alpha)
    return 1 - closed.clamp(_EPS, 1 - _EPS)


@torch.no_grad()
def settle(log_alpha: Tensor, present: Tensor | None = None) -> Tensor:
    """Decide which gates of each group stay open.

    Args:
        log_alpha: Groups of n gates, [..., n].
        present: False for gates of parts that do not exist, bool [..., n]; all exist when None.

    Returns:
        Same shape: 0 for the round(n - sum P(z > 0)) smallest, halves rounded to even, of equal ones those of lowest
        index, and for what is not present; sigmoid(1.2 log_alpha) for the others. Without gradient.
    """
    # in float64 on the CPU: a sum near a half must not close another gate on another device
    exact = log_alpha.cpu().double()
    exists = torch.ones_like(exact, dtype=torch.bool) if present is None else present.cpu()
    expected_closed = (1 - open_probability(exact)).where(exists, 0.0).sum(dim=-1)
    num_closed = expected_closed.round() + (~exists).sum(dim=-1)
    order = exact.where(exists, -math.inf).argsort(dim=-1, stable=True)
    place = order.argsort(dim=-1)  # of each gate in that order, [..., n]
    closed = (place < num_closed[..., None]).to(log_alpha.device)
    return torch.sigmoid(_SETTLED_SLOPE * log_alpha).masked_fill(closed, 0.0)


def count_kept(values: GateValues) -> KeptCounts:
    """Count what settled gates keep.

    Args:
        values: From :meth:`TowerGates.settled`.
    """
    heads: list[int] = (values.heads > 0).sum(dim=1).tolist()
    units: list[int] = (values.units > 0).sum(dim=1).tolist()
    return KeptCounts(int((values.hidden > 0).sum()), tuple(heads), tuple(units))


class TowerGates(nn.Module):
    """The gates of one tower.

    They want Adam without weight decay, and to be left out of the clipping of gradients. Adam moves log_alpha by about
    its learning rate a step, and from the clamp to P(z > 0) = 1/2 it is 6.2: a run of a few hundred steps needs a rate
    of 0.1 to 0.2, where the published 0.02 suits thousands.

    Attributes:
        sizes: Of the tower before anything was cut.
        hidden: log_alpha, [W], with W as kept by an earlier stage.
        heads: log_alpha, [L, H].
        units: log_alpha, [L, F].
    """

    heads_present: Tensor
    units_present: Tensor

    def __init__(self, sizes: TowerSizes, kept: KeptCounts | None = None) -> None:
        """Build with all gates open.

        Args:
            sizes: Of the tower before anything was cut.
            kept: What an earlier stage has left of it; everything when None. The gates of a layer's heads are then the
                first ones of its row, and the same goes for units.

        Raises:
            ConfigError: If a size is below 1, or more is kept than there was.
        """
        super().__init__()
        kept = _checked(sizes, kept)
        self.sizes = sizes
        self.hidden = nn.Parameter(torch.full((kept.hidden,), _START))
        self.heads = nn.Parameter(torch.full((sizes.layers, sizes.heads), _START))
        self.units = nn.Parameter(torch.full((sizes.layers, sizes.units), _START))
        # they follow from what the gates are built with, so that no checkpoint needs them
        self.register_buffer("heads_present", _first(kept.heads, sizes.heads), persistent=False)
        self.register_buffer("units_present", _first(kept.units, sizes.units), persistent=False)

    def draw_noise(self, seed: int, step: int, rank: int, tower: int) -> GateNoise:
        """Draw the noise of one step, for the whole batch of a rank; on the CPU, so the same on every device.

        Args:
            seed: Of the run, from 0.
            step: From 0.
            rank: Of this process; others draw other noise.
            tower: A number of this tower's own, from 0.
        """
        state = np.random.SeedSequence([seed, step, rank, tower, _GATES]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        draws = [
            torch.rand(log_alpha.shape, generator=generator) * (1 - 2 * _EPS) + _EPS
            for log_alpha in (self.hidden, self.heads, self.units)
        ]
        return GateNoise(*draws)

    def sample(self, noise: GateNoise) -> GateValues:
        """Sample the gates for a training step, with gradient.

        Args:
            noise: From :meth:`draw_noise`; it is moved to the gates' device and precision.
        """
        return self._of_present(
            hard_concrete(self.hidden, noise.hidden.to(self.hidden)),
            hard_concrete(self.heads, noise.heads.to(self.heads)),
            hard_concrete(self.units, noise.units.to(self.units)),
        )

    def open_probabilities(self) -> GateValues:
        """P(z > 0) of each gate, with gradient."""
        return self._of_present(
            open_probability(self.hidden), open_probability(self.heads), open_probability(self.units)
        )

    def settled(self) -> GateValues:
        """Decide which gates stay open, see :func:`settle`; the width and each layer's heads and units are groups."""
        return GateValues(
            settle(self.hidden), settle(self.heads, self.heads_present), settle(self.units, self.units_present)
        )

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring log_alpha back into [-ln 100, ln 100], to be called after each step of the optimiser.

        P(z > 0) is then in [0.047, 0.998]. The first call closes a few gates that would settle at once, since of
        many equal ones round(0.002 n) close: 2 of 768, 6 of 3072.
        """
        for log_alpha in (self.hidden, self.heads, self.units):
            log_alpha.clamp_(-_LIMIT, _LIMIT)

    def _of_present(self, hidden: Tensor, heads: Tensor, units: Tensor) -> GateValues:
        return GateValues(hidden, heads.where(self.heads_present, 0.0), units.where(self.units_present, 0.0))


class SparsityMultipliers(nn.Module):
    """Lagrange multipliers of the constraint on one tower's sparsity.

    They are trained by gradient ascent: give them to the optimiser in a group of their own with ``maximize=True``,
    which torch.optim.Adam takes per group, without weight decay and outside gradient clipping.

    Attributes:
        values: Of the linear and the squared term of :func:`training.losses.sparsity.sparsity_loss`, both 10 at the
            start, [2].
    """

    def __init__(self) -> None:
        """Build with the published start."""
        super().__init__()
        self.values = nn.Parameter(torch.full((2,), _START_OF_MULTIPLIERS))


def compaction_is_due(step: int, compact_at: int, compacted: bool) -> bool:
    """Tell whether the towers are to be cut before this step.

    Args:
        step: About to be taken, from 0; a resumed run may find itself past ``compact_at``.
        compact_at: The first step with cut towers.
        compacted: Whether that was done; belongs into checkpoints.
    """
    return step >= compact_at and not compacted


def _checked(sizes: TowerSizes, kept: KeptCounts | None) -> KeptCounts:
    if min(sizes) < 1:
        raise ConfigError(message("gates need a tower with sizes of at least 1", sizes))
    if kept is None:
        return KeptCounts(sizes.width, (sizes.heads,) * sizes.layers, (sizes.units,) * sizes.layers)
    pairs = [(kept.hidden, 1, sizes.width), (len(kept.heads), sizes.layers, sizes.layers)]
    pairs += [(len(kept.units), sizes.layers, sizes.layers)]
    pairs += [(heads, 0, sizes.heads) for heads in kept.heads] + [(units, 0, sizes.units) for units in kept.units]
    if any(not least <= count <= most for count, least, most in pairs):
        fix = "give what an earlier stage kept of this very tower"
        raise ConfigError(message("more is kept of a tower than it had", kept, f"parts of {sizes}", fix))
    return kept


def _first(counts: tuple[int, ...], size: int) -> Tensor:
    """Mark the first entries of each row, as many as counted, bool [L, size]."""
    return torch.arange(size) < torch.tensor(counts)[:, None]
