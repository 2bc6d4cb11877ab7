"""How much smaller gates make towers, and the loss that holds this at a target (TinyCLIP, arXiv 2309.12314).

With q = P(z > 0) of the gates of :mod:`training.models.gates`, and the sizes L, H, W, F of a whole tower,

    c = floor((4 W^2 + 4 W) / H)                               weights and biases of a head,
    P = L (c H + 2 W F + W + F)                                prunable parameters: attention and MLPs,
    R = sum q_hidden (c / W sum q_heads + 2 sum q_units)       those expected to remain,
    e = 1 - R / P,   loss = m_1 g + m_2 g^2,   g = max(target - e, 0).

R and P may be sums over towers, so that the loss leaves it to the gates which tower loses how much. Embeddings, norms,
the output width, vocabulary and context are neither counted nor cut. P holds the MLPs' biases and R does not: towers
with all gates open have a sparsity of almost 0.001.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from assets.errors import ConfigError, message
from training.models.gates import GateValues, KeptCounts, TowerSizes


def prunable_parameters(sizes: TowerSizes) -> int:
    """Count the weights and biases of a tower's attention and MLPs, P.

    Args:
        sizes: Of the tower before anything was cut.
    """
    mlp = 2 * sizes.width * sizes.units + sizes.width + sizes.units
    return sizes.layers * (sizes.heads * _parameters_per_head(sizes) + mlp)


def kept_parameters(sizes: TowerSizes, kept: KeptCounts) -> int:
    """Count what is really left of the prunable parameters once a tower is cut.

    The output biases of attention and MLP stay where a layer keeps no head or unit.

    Args:
        sizes: Of the tower before anything was cut.
        kept: What is left of it, see :func:`training.models.gates.count_kept`.

    Returns:
        :func:`prunable_parameters` if everything was kept.
    """
    attention_width = sum(kept.heads) * (sizes.width // sizes.heads)  # all layers together
    attention = attention_width * (4 * kept.hidden + 3) + sizes.layers * kept.hidden
    mlp = sum(kept.units) * (2 * kept.hidden + 1) + sizes.layers * kept.hidden
    return attention + mlp


def expected_parameters(sizes: TowerSizes, probabilities: GateValues) -> Tensor:
    """Foresee how many of the prunable parameters remain, R.

    Args:
        sizes: Of the tower before anything was cut, also if the gates are those of a later stage.
        probabilities: P(z > 0) of its gates: [W], [L, H] and [L, F].

    Returns:
        Scalar with gradient.

    Raises:
        ConfigError: If the gates are not those of such a tower.
    """
    hidden, heads, units = probabilities
    fits = heads.shape == (sizes.layers, sizes.heads) and units.shape == (sizes.layers, sizes.units)
    if not fits or len(hidden) > sizes.width:
        shapes = [tuple(values.shape) for values in probabilities]
        raise ConfigError(message("gates are not those of the tower", shapes, str(sizes), "pass the gates' own sizes"))
    per_head = _parameters_per_head(sizes) / sizes.width  # and per dimension of the residual stream
    return hidden.sum() * (per_head * heads.sum() + 2 * units.sum())


def expected_sparsity(sizes: Sequence[TowerSizes], probabilities: Sequence[GateValues]) -> Tensor:
    """Foresee the share of prunable parameters that goes, e; of several towers together.

    Args:
        sizes: Of each tower before anything was cut.
        probabilities: P(z > 0) of each tower's gates, in the same order.

    Returns:
        Scalar with gradient.
    """
    pairs = zip(sizes, probabilities, strict=True)
    remaining = torch.stack([expected_parameters(tower, values) for tower, values in pairs]).sum()
    return 1 - remaining / sum(prunable_parameters(tower) for tower in sizes)


def target_at(step: int, start: float, end: float, warmup: int) -> float:
    """Give the sparsity to be reached at a step: from start to end in a straight line, then end.

    Args:
        step: From 0.
        start: Share of the whole towers that an earlier stage has cut, 0 in the first.
        end: Share that this stage cuts down to, below 1.
        warmup: Step from which on the target is ``end``; 0 has it from the start.

    Raises:
        ConfigError: If the shares are not 0 <= start <= end < 1, or a step is negative.
    """
    if not 0 <= start <= end < 1:
        raise ConfigError(message("sparsity targets out of order", (start, end), "0 <= start <= end < 1"))
    if step < 0 or warmup < 0:
        raise ConfigError(message("negative step or warm-up of the sparsity target", (step, warmup), "at least 0"))
    return start + (end - start) * (step / warmup if step < warmup else 1.0)


def sparsity_loss(sparsity: Tensor, target: float, multipliers: Tensor, two_sided: bool = False) -> Tensor:
    """Penalise gates that are more open than the target allows: m_1 g + m_2 g^2.

    One-sided, as in the published code, g is max(target - sparsity, 0): nothing pulls back gates that close further
    than asked, the loss is then 0 without gradient, and multipliers under ascent never fall. Two-sided, as in the
    paper, g is target - sparsity: gates are pulled back from where m_1 is below -2 m_2 g, and m_1 falls by ascent while
    they are too far closed.

    Args:
        sparsity: e, scalar.
        target: See :func:`target_at`.
        multipliers: m_1 and m_2, [2]; or those of M towers that share the constraint, [M, 2], whose mean counts.
        two_sided: Whether gates that close too far are held back.

    Returns:
        Scalar with gradient, also for the multipliers, which climb it.

    Raises:
        ConfigError: If the multipliers do not come in pairs.
    """
    if not 1 <= multipliers.dim() <= 2 or multipliers.shape[-1] != 2:
        raise ConfigError(message("multipliers in a wrong shape", tuple(multipliers.shape), "[2] or [towers, 2]"))
    linear, squared = multipliers.reshape(-1, 2).mean(dim=0)
    gap = target - sparsity if two_sided else functional.relu(target - sparsity)
    return linear * gap + squared * gap.square()


def _parameters_per_head(sizes: TowerSizes) -> int:
    return (4 * sizes.width**2 + 4 * sizes.width) // sizes.heads
