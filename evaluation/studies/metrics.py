"""The metrics that a study of noise follows: the panels of its figure, and the heads that it compares."""

from collections.abc import Collection
from dataclasses import dataclass

from evaluation.wording import plain

HEADS = {"lp": "linear (LP)", "mlp": "MLP", "nmtune": "NMTune"}
"""Heads on frozen features, as the evaluator ``tuning`` names them -> as people read them."""
HEAD_METRICS = {"in-domain": "tuning.in_domain.{}_top1", "out-of-domain": "tuning.held_out_style.transfer_{}_top1"}
"""Where heads are scored -> name of the metric there."""
CONTROLS = ("lp", "mlp")
"""Heads that NMTune is compared with."""
COVARIANCE = "tuning.in_domain.num_cov_{}"
"""What the covariance term of a head's features is in the end."""
_SPECTRA = {"num_sve": "SVE: spread of the singular values", "num_lsvr": "LSVR: smallness of the largest one's share"}
_ID, _OOD = "in-domain", "out-of-domain"


@dataclass(frozen=True, slots=True)
class Line:
    """One metric.

    Attributes:
        metric: Dotted name, as in metrics.json of a run.
        label: What the legend calls it.
        series: Number of its colour.
    """

    metric: str
    label: str
    series: int


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of the figure.

    Attributes:
        title: What it shows.
        lines: The metrics in it.
        is_share: Whether values are shares, to be shown in percent; spectral numbers are none.
    """

    title: str
    lines: tuple[Line, ...]
    is_share: bool = True


_ZERO_SHOT = (
    Line("zero_shot.in_domain.top1", _ID, 0),
    Line("zero_shot.held_out_style.top1", _OOD, 1),
    Line("robustness.in_domain.corrupted_top1", "corrupted pictures", 5),
)
_PROBE = (
    Line("linear_probe.in_domain.top1", _ID, 0),
    Line("linear_probe.held_out_style.transfer_top1", _OOD, 1),
)


def panels(available: Collection[str]) -> tuple[list[Panel], list[str]]:
    """Choose what the figure shows.

    Args:
        available: Dotted names of the metrics that some run has; spectral numbers are shown for every suite in them.

    Returns:
        Panels with at least one metric that is available, with those metrics only; and a note per missing one.
    """
    wanted = [
        Panel("Zero-shot, top-1", _ZERO_SHOT),
        *(
            Panel(
                f"Heads on frozen features, {where}, top-1",
                tuple(Line(name.format(head), label, 2 + n) for n, (head, label) in enumerate(HEADS.items())),
            )
            for where, name in HEAD_METRICS.items()
        ),
        Panel("Linear probe (logistic regression), top-1", _PROBE),
        *(_spectrum(name, title, available) for name, title in _SPECTRA.items()),
        Panel("Image to text retrieval, R@1", (Line("retrieval.in_domain.image_to_text_r1", _ID, 0),)),
    ]
    shown: list[Panel] = []
    notes: list[str] = []
    for panel in wanted:
        lines = tuple(line for line in panel.lines if line.metric in available)
        notes += [f"no run has {line.metric}" for line in panel.lines if line.metric not in available]
        if not panel.lines:
            notes.append(f"no run has the spectral number of the panel {panel.title!r}")
        if lines:
            shown.append(Panel(panel.title, lines, panel.is_share))
    return shown, notes


def _spectrum(name: str, title: str, available: Collection[str]) -> Panel:
    """Return the panel of a spectral number: one line per suite that has it, what is like training first."""
    suites = [
        metric.split(".")[1] for metric in available if metric.startswith("spectra.") and metric.endswith(f".{name}")
    ]
    suites.sort(key=lambda suite: (not suite.endswith("in_domain"), suite))
    lines = (Line(f"spectra.{suite}.{name}", plain(suite), n) for n, suite in enumerate(suites))
    return Panel(title, tuple(lines), is_share=False)
