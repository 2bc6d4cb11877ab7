"""Which runs a study of noise compares, and how much noise each was trained with.

The runs are those of one recipe on one data set, so that noise is all that differs. Noise is read off the run's policy:
exchanged captions are noise, no policy is none, and whatever else a policy does takes its runs out of the study.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from assets.config import read_sections
from assets.errors import ConfigError, message
from assets.reduction.config import NONE, ExchangedCaptions, OriginalCaptions, PolicyConfig, load_policy
from assets.section import parse
from evaluation.studies.config import StudyConfig
from training.config import RunConfig

_SHARE_DECIMALS = 4
_PARTS = ("features", "teacher", "start")


@dataclass(frozen=True, slots=True)
class Member:
    """A run that takes part.

    Attributes:
        run: Its key in ``runs``.
        seed: Seed of its training.
        share: Share of its training pairs whose captions are others' by design, 0..1.
    """

    run: str
    seed: int
    share: float


@dataclass(frozen=True, slots=True)
class Members:
    """The runs of a study.

    Attributes:
        members: Those that take part, by rising noise, then by seed.
        left_out: Run of the recipe and data set -> why it does not take part.
    """

    members: tuple[Member, ...]
    left_out: dict[str, str]

    @property
    def shares(self) -> tuple[float, ...]:
        """The levels of noise, rising, each once."""
        return tuple(sorted({member.share for member in self.members}))


def find_members(name: str, config: StudyConfig, params: Path) -> Members:
    """Choose the runs of a study of noise.

    Args:
        name: Key in ``studies``, for errors.
        config: The study.
        params: The file params.yaml; sections ``runs`` and ``policies``.

    Raises:
        ConfigError: Fewer than two levels of noise, runs that differ in more than noise, or a wrong value.
    """
    where = f"{params}: studies.{name}"
    runs = {
        str(run): parse(RunConfig, value, f"{params}: runs.{run}")
        for run, value in read_sections(params)["runs"].items()
    }
    runs = {
        run: found for run, found in runs.items() if (found.recipe, found.dataset) == (config.recipe, config.dataset)
    }
    chosen: list[Member] = []
    left_out: dict[str, str] = {}
    for run, found in runs.items():
        share = 0.0 if found.policy == NONE else noise_share(load_policy(params, found.policy))
        if share is None:
            left_out[run] = f"its policy {found.policy} does something else than to exchange captions"
        else:
            chosen.append(Member(run, found.seed, share))
    chosen.sort(key=lambda member: (member.share, member.seed, member.run))
    members = Members(tuple(chosen), left_out)
    if len(members.shares) < 2:
        got = f"{len(chosen)} runs, at noise {', '.join(f'{share:g}' for share in members.shares) or 'of no share'}"
        fix = "add runs whose policies have captions of kind exchanged with other shares, and runs with policy none"
        what = f"{where}: recipe {config.recipe} on data set {config.dataset} has too few levels of noise to compare"
        raise ConfigError(message(what, got, "at least two levels", fix))
    _check_nothing_else(where, {member.run: runs[member.run] for member in chosen})
    return members


def noise_share(policy: PolicyConfig) -> float | None:
    """Return the share of pairs that a policy is expected to displace, or None if it does anything else.

    Args:
        policy: The policy. With ``reference_swaps``, K = share * n exchanges of two displace about 1 - exp(-2 share) of
            the n pairs, since a pair is met by none of them with probability (1 - 2 / n) ** K.
    """
    rule = policy.caption_rule
    if policy.steps or not isinstance(rule, ExchangedCaptions | OriginalCaptions):
        return None
    if isinstance(rule, OriginalCaptions):
        return 0.0
    displaced = {"cyclic": rule.share, "reference_swaps": 1 - math.exp(-2 * rule.share)}[rule.mode]
    return round(displaced, _SHARE_DECIMALS)


def _check_nothing_else(where: str, runs: dict[str, RunConfig]) -> None:
    """Refuse runs that differ in what they learn from or begin as: their difference would pass for that of noise."""
    first, other = next(iter(runs.items()))
    for run, config in runs.items():
        for part in _PARTS:
            if (got := getattr(config, part)) != (wanted := getattr(other, part)):
                what = f"{where}: runs {first} and {run} differ in more than noise: {part}"
                raise ConfigError(message(what, f"{wanted} and {got}", "the same", "give one of them another recipe"))
