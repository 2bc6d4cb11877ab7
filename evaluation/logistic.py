"""Multinomial logistic regression by L-BFGS on one thread.

The weights minimise the mean cross-entropy plus ``|W|^2 / (2 c n)`` over n images, which is the usual
``c * (sum of cross-entropies) + |W|^2 / 2`` divided by ``c n``; the bias is not penalised. The minimum is unique up to
a constant in the bias. Features are turned into the principal axes of the training images, which changes neither the
penalty nor the minimum; there the curvature of the loss is nearly diagonal, and with each weight in units of its
curvature L-BFGS needs half to a third of the iterations. One thread, because the order of additions would otherwise
follow the number of threads.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64] | npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

# a softmax over C classes curves by 1 / C where it knows nothing, and less the better it fits
_FITTED = 0.1


class Scaling(NamedTuple):
    """Moves features to mean 0, every dimension to variance 1, and turns them into their principal axes.

    Attributes:
        mean: [D].
        axes: [D, R]; dimensions and axes along which the training images do not vary are left out.
    """

    mean: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: npt.NDArray[np.float32]) -> "Scaling":
        """Measure a training set, [n, D]."""
        with one_thread():
            exact = torch.from_numpy(features).double()
            mean = exact.mean(dim=0)
            deviation = exact.std(dim=0, correction=0)
            # below this a deviation is what rounding to float32 left of equal numbers
            alive = deviation > 1e-6 * exact.abs().amax(dim=0).clamp(min=1e-6)
            scale = torch.where(alive, 1 / deviation, 0.0)
            scaled = (exact - mean) * scale
            variances, axes = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
            return cls(mean.numpy(), (scale[:, None] * axes[:, variances > 1e-9]).numpy())

    def apply(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Scale features, [n, D], and append the constant that the bias multiplies, [n, R + 1]."""
        with one_thread():
            centred = torch.from_numpy(features).double() - torch.from_numpy(self.mean)
            turned = centred @ torch.from_numpy(self.axes)
            return torch.cat([turned, torch.ones(len(turned), 1, dtype=turned.dtype)], dim=1).numpy()


class Stop(NamedTuple):
    """When L-BFGS ends.

    Attributes:
        iterations: The most it takes.
        slope: Steepest slope of the loss along any one weight, in units of the weight's curvature, that counts as flat.
    """

    iterations: int
    slope: float


class Fit(NamedTuple):
    """A minimum, or where the solver had to end.

    Attributes:
        weights: [R + 1, C]; the last row is the bias.
        converged: Whether the loss is flat there.
    """

    weights: Floats
    converged: bool


def fit(inputs: Floats, labels: Labels, c: float, start: Floats, stop: Stop) -> Fit:
    """Fit one regression, in the precision of the inputs.

    Args:
        inputs: Scaled features with a last column of ones, [n, R + 1].
        labels: Class of each row, [n].
        c: Inverse strength of the penalty.
        start: Where to begin, [R + 1, C].
        stop: When to end.
    """
    with one_thread():
        rows = torch.from_numpy(np.ascontiguousarray(inputs))
        picked = torch.arange(len(rows)), torch.from_numpy(labels)
        penalty = torch.full((rows.shape[1], 1), 1 / (c * len(rows)), dtype=rows.dtype)
        penalty[-1] = 0.0
        curvature = _FITTED / start.shape[1] * rows.square().mean(dim=0)[:, None] + penalty  # [R + 1, 1]
        unit = curvature.rsqrt()
        weights = (torch.from_numpy(start).to(rows.dtype) / unit).requires_grad_()  # [R + 1, C]

        @torch.no_grad()
        def loss_and_slope() -> Tensor:
            plain = weights * unit
            logs = torch.log_softmax(rows @ plain, dim=1)  # [n, C]
            loss = -logs[picked].mean() + (penalty * plain.square()).sum() / 2
            errors = logs.exp_()
            errors[picked] -= 1.0
            weights.grad = (rows.T @ errors).div_(len(rows)).add_(penalty * plain).mul_(unit)
            return loss

        solver = torch.optim.LBFGS(
            [weights],
            max_iter=stop.iterations,
            max_eval=2 * stop.iterations,
            tolerance_grad=stop.slope,
            tolerance_change=0.0,
            history_size=10,
            line_search_fn="strong_wolfe",
        )
        solver.step(loss_and_slope)  # pyright: ignore[reportArgumentType]
        loss_and_slope()
        assert weights.grad is not None
        converged = bool(weights.grad.abs().max() <= stop.slope)
        return Fit((weights.detach() * unit).numpy(), converged)


def fit_path(inputs: Floats, labels: Labels, classes: int, cs: Sequence[float], stop: Stop) -> Iterator[Fit]:
    """Fit one regression per ``c``, each begun where the one before ended.

    Args:
        inputs: Scaled features with a last column of ones, [n, R + 1].
        labels: Class of each row, [n].
        classes: C.
        cs: Inverse strengths, ascending: strong penalties are the quick fits.
        stop: When to end each.

    Yields:
        The fits in the order of ``cs``.
    """
    start: Floats = np.zeros((inputs.shape[1], classes))
    for c in cs:
        found = fit(inputs, labels, c, start, stop)
        start = found.weights
        yield found


def log_probabilities(inputs: Floats, weights: Floats) -> npt.NDArray[np.float64]:
    """Return the log-probability of every class.

    Args:
        inputs: Scaled features with a last column of ones, [n, R + 1].
        weights: [R + 1, C].

    Returns:
        [n, C].
    """
    with one_thread():
        scores = torch.from_numpy(inputs).double() @ torch.from_numpy(weights).double()
        return torch.log_softmax(scores, dim=1).numpy()


@contextmanager
def one_thread() -> Generator[None]:
    """Compute on one thread: the order of additions would otherwise follow their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
