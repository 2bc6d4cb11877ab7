"""One entry of the section ``policies``: which pairs of a data set training gets, and with which captions.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from assets.config import entry, read_sections
from assets.errors import ConfigError, message
from assets.reduction.clusters import ClusteringConfig
from assets.reduction.quotas import Kind as Quota
from assets.section import Section, parse

REDUCED = Path("data/reduced")
REPORTS = Path("reports/reduction")
NONE = "none"
"""What a policy names that wants no embeddings or no captioner, and a run that wants no policy."""
Features = Literal["image", "codes_mean", "codes_hist", "codes_raw"]
By = Literal["score", "likelihood"]
"""How well picture and caption fit: cosine of their embeddings, or the captioner's mean log probability of a token."""
MEASURES: tuple[By, ...] = get_args(By)


def _checked_keep(keep: float) -> float:
    if isinstance(keep, int) and keep < 1:
        raise ValueError("a count must be 1 or more; write a share with a point, such as 0.25 or 1.0")
    if isinstance(keep, float) and not 0 < keep <= 1:
        raise ValueError("a share must be above 0 and at most 1.0; write a count without a point")
    return keep


Keep = Annotated[int | float, AfterValidator(_checked_keep)]
"""A share of what the step sees when it has a point (0.25), a number of pairs when it has none (50000)."""


class RandomStep(Section):
    """Keeps a random subset: the first in hash order."""

    kind: Literal["random"]
    keep: Keep
    """How many."""


class TldrStep(ClusteringConfig):
    """TL;DR: a share of every cluster, after the half with the lower scores is gone (docs/reduction.md)."""

    kind: Literal["tldr"]
    rule: Literal["half_then_stratify", "budget", "uniform", "reference"] = "half_then_stratify"
    """``budget`` and ``uniform`` need no scores; ``reference`` is the published code's."""
    keep: Keep | None = None
    """How many; ``reference`` has none, since its stride decides."""
    quota: Quota = "proportional"
    """How a budget is spread over clusters: like their sizes, the roots of these, or equally as far as they go."""
    order: Literal["hash", "score"] = "hash"
    """What ``budget`` and ``uniform`` prefer inside a cluster."""
    by: By = "score"
    """What halves and orders go by."""
    stride: int = Field(default=2, ge=1)
    """``reference`` keeps every such member of a cluster, and of those the ones in the better half by score."""
    features: Features = "image"
    """What is clustered: image embeddings, or a captioner's codes (mean vector, usage histogram, raw numbers)."""

    @property
    def wants_scores(self) -> bool:
        """Whether it looks at scores or likelihoods."""
        return self.rule in ("half_then_stratify", "reference") or self.order == "score"

    @model_validator(mode="after")
    def _fits(self) -> "TldrStep":
        if (self.keep is None) != (self.rule == "reference"):
            raise ValueError("keep is needed by every rule but reference, which takes stride instead")
        if self.rule == "half_then_stratify" and isinstance(self.keep, float) and self.keep > 0.5:
            raise ValueError("rule half_then_stratify has only the better half to take from: keep at most 0.5")
        if self.rule == "uniform" and not isinstance(self.keep, float):
            raise ValueError("rule uniform keeps a share of every cluster: write keep with a point, such as 0.25")
        if self.order == "score" and self.rule not in ("budget", "uniform"):
            raise ValueError(f"order score is for the rules budget and uniform, not for {self.rule}")
        if self.quota != "proportional" and self.rule in ("uniform", "reference"):
            raise ValueError(f"rule {self.rule} spreads no budget, so it takes no quota")
        return self


class ClipScoreStep(Section):
    """Keeps the pairs whose picture and caption are most alike."""

    kind: Literal["clip_score"]
    keep: Keep
    """How many."""


class LikelihoodStep(Section):
    """Keeps the pairs whose captions the captioner finds likeliest, given the pictures."""

    kind: Literal["caption_likelihood"]
    keep: Keep
    """How many."""


class SemDedupStep(ClusteringConfig):
    """Keeps one of pictures that mean the same: drops what is too like an earlier one of its cluster."""

    kind: Literal["semdedup"]
    keep: Keep | None = None
    """How many; or ``eps``."""
    eps: float | None = Field(default=None, gt=0, lt=2)
    """Dropped is what has a cosine above 1 - eps with an earlier one of its cluster."""
    order: Literal["hard", "easy", "random"] = "hard"
    """Which come first: those far from their cluster's centre, those near it, or hash order."""
    components: int | None = Field(default=None, ge=1)
    """Null: embeddings are clustered as they are, since their centres say which of a cluster come first."""

    @model_validator(mode="after")
    def _fits(self) -> "SemDedupStep":
        if self.components is not None:
            raise ValueError("semdedup clusters embeddings as they are; leave components out")
        if (self.keep is None) == (self.eps is None):
            raise ValueError("semdedup takes keep or eps, one of the two")
        return self


class NearDuplicatesStep(Section):
    """Keeps the first, in index order, of pictures that look nearly the same; no model is asked."""

    kind: Literal["near_duplicates"]
    max_distance: float = Field(default=0.06, ge=0, le=0.5)
    """Share of a picture's variance that another leaves unexplained, up to which they do; as in validation."""


class ConceptBalanceStep(Section):
    """Thins out pairs of frequent concepts only (MetaCLIP)."""

    kind: Literal["concept_balance"]
    keep: Keep | None = None
    """How many; or ``threshold``."""
    threshold: int | None = Field(default=None, ge=1)
    """Pairs up to which a concept keeps all of them."""
    entries: Literal["auto", "classes", "words", "found"] = "auto"
    """Concepts: names of the data set's classes, or words of captions; auto takes classes where there are any.
    ``found`` takes those of the policy's ``concepts``, in caption and picture both where pictures were looked at."""
    min_count: int = Field(default=5, ge=1)
    """Captions a word must stand in to be an entry."""
    unmatched: Literal["keep", "drop"] = "drop"
    """What happens to pairs without any concept; the published rule drops them. Kept, they count as the rarest."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ConceptBalanceStep":
        if (self.keep is None) == (self.threshold is None):
            raise ValueError("concept_balance takes keep or threshold, one of the two")
        return self


class ConceptAgreementStep(Section):
    """Drops pairs whose caption and picture both speak of concepts, but of none in common; never for an empty side."""

    kind: Literal["concept_agreement"]


Step = (
    RandomStep
    | TldrStep
    | ClipScoreStep
    | LikelihoodStep
    | SemDedupStep
    | NearDuplicatesStep
    | ConceptBalanceStep
    | ConceptAgreementStep
)


class CaptionFilter(Section):
    """Which generated captions are dropped; the pair then stays with its original one."""

    repeats: bool = True
    """Drop one that says the same as the original."""
    most_common_share: float = Field(default=0.001, gt=0, le=1)
    """Drop strings that were generated for more than this share of the pool."""
    common_at_least: int = Field(default=10, ge=1)
    """A string must stand at more pairs than this to count as common, which is what matters in small pools."""
    min_log_probability: float | None = None
    """Drop those the captioner was less sure of, by mean log-probability per token."""
    margin: float | None = Field(default=None, ge=0)
    """Drop those that score below the original by more than this; captions.parquet must have a column ``score``."""


class OriginalCaptions(Section):
    """Captions stay as they are."""

    kind: Literal["original"]


class _Generated(Section):
    """What all kinds share that use generated captions."""

    filter: CaptionFilter = CaptionFilter()
    """Which generated captions are dropped."""
    clean_words: int | None = Field(default=None, ge=1)
    """Also clean the caption as BLIP does (lower case, no punctuation) and cut it to so many words; null leaves it."""


class ConcatCaptions(_Generated):
    """The original, then the generated caption, however long: what a text tower cuts off is the generated one."""

    kind: Literal["concat"]


class BudgetedConcatCaptions(_Generated):
    """The original, cut where need be, then the generated caption, for which room is reserved."""

    kind: Literal["budgeted_concat"]
    words: int = Field(default=30, ge=2)
    """Words in all; choose about three quarters of the recipe's context_length."""
    reserve: int = Field(default=16, ge=1)
    """Words of the generated caption that are never cut."""

    @model_validator(mode="after")
    def _room_for_both(self) -> "BudgetedConcatCaptions":
        if self.reserve >= self.words:
            raise ValueError(f"no room for the original: reserve is {self.reserve} of {self.words} words")
        return self


class SampleCaptions(_Generated):
    """One of the two captions, drawn once per pair."""

    kind: Literal["sample"]
    p: float = Field(ge=0, le=1)
    """Probability of the original."""


class GeneratedCaptions(_Generated):
    """Generated captions alone; training on these collapses, so it must be forced."""

    kind: Literal["generated_only"]
    force: bool = False
    """Do it all the same."""

    @model_validator(mode="after")
    def _forced(self) -> "GeneratedCaptions":
        if not self.force:
            raise ValueError(
                "training on generated captions alone collapses for want of diversity; "
                "take budgeted_concat, or set force: true if that is what you study"
            )
        return self


class ExchangedCaptions(Section):
    """Noise for studies: a share of the kept pairs get captions of others (docs/noise_study.md)."""

    kind: Literal["exchanged"]
    share: float = Field(ge=0, le=1)
    """Share of the pairs, exact to the pair; for ``reference_swaps`` the number of exchanges per pair."""
    mode: Literal["cyclic", "reference_swaps"] = "cyclic"
    """``cyclic`` passes captions around one circle; ``reference_swaps`` is the published script's, which displaces
    about 1 - exp(-2 share)."""


CaptionRule = (
    OriginalCaptions | ConcatCaptions | BudgetedConcatCaptions | SampleCaptions | GeneratedCaptions | ExchangedCaptions
)


class PolicyConfig(Section):
    """A policy."""

    dataset: str
    """The data set whose accepted training pairs are the pool."""
    embeddings: str
    """Entry of ``embeddings``, for steps that look at scores or pictures; or none."""
    captioner: str
    """Entry of ``captioners``, for codes and generated captions; or none."""
    concepts: str
    """Entry of ``concepts``, for steps that ask what captions and pictures speak of; or none."""
    seed: int = Field(default=0, ge=0)
    """Seed of every draw."""
    steps: tuple[Annotated[Step, Field(discriminator="kind")], ...] = ()
    """A chain; each step sees what the one before it kept."""
    captions: Annotated[CaptionRule, Field(discriminator="kind")] | None = None
    """The captions of kept pairs; null is budgeted_concat with a captioner, and original without one."""
    shards: bool = False
    """Also write the kept pairs as WebDataset shards, for trainers that know no plans."""

    @property
    def caption_rule(self) -> CaptionRule:
        """The rule of captions, with the default resolved."""
        if self.captions is not None:
            return self.captions
        if self.captioner == NONE:
            return OriginalCaptions(kind="original")
        return BudgetedConcatCaptions(kind="budgeted_concat")

    @property
    def changes_captions(self) -> bool:
        """Whether kept pairs can have other captions than the data set."""
        return not isinstance(self.caption_rule, OriginalCaptions)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "PolicyConfig":
        for number, step in enumerate(self.steps):
            where = f"steps.{number} ({step.kind})"
            if self.embeddings == NONE and by(step) == "score":
                raise ValueError(f"{where} looks at scores; name the embeddings that hold them")
            if self.captioner == NONE and by(step) == "likelihood":
                raise ValueError(f"{where} asks how likely captions are; name the captioner that says so")
            if self.embeddings == NONE and _wants_pictures(step):
                raise ValueError(f"{where} clusters image embeddings; name them in embeddings")
            if self.captioner == NONE and isinstance(step, TldrStep) and step.features.startswith("codes"):
                raise ValueError(f"{where} clusters codes; name the captioner that makes them")
            if self.concepts == NONE and wants_concepts(step):
                raise ValueError(f"{where} asks for concepts that were found; name them in concepts")
        if self.captioner == NONE and isinstance(self.caption_rule, _Generated):
            raise ValueError(f"captions {self.caption_rule.kind} need generated ones; name a captioner")
        return self


def by(step: Step) -> By | None:
    """Say which measure of fit a step looks at."""
    if isinstance(step, ClipScoreStep):
        return "score"
    if isinstance(step, LikelihoodStep):
        return "likelihood"
    return step.by if isinstance(step, TldrStep) and step.wants_scores else None


def wants_concepts(step: Step) -> bool:
    """Say whether a step asks for concepts that the stage ``concepts`` found."""
    balances = isinstance(step, ConceptBalanceStep) and step.entries == "found"
    return balances or isinstance(step, ConceptAgreementStep)


def _wants_pictures(step: Step) -> bool:
    return isinstance(step, SemDedupStep) or (isinstance(step, TldrStep) and step.features == "image")


def load_policy(params: Path, name: str) -> PolicyConfig:
    """Read ``policies.<name>`` and check that what it names exists and is of the same data set.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    where = f"{params}: policies.{name}"
    config = parse(PolicyConfig, entry(sections, "policies", name, params), where)
    entry(sections, "datasets", config.dataset, params)
    named = (("embeddings", config.embeddings), ("captioners", config.captioner), ("concepts", config.concepts))
    for section, wanted in named:
        if wanted == NONE:
            continue
        dataset = entry(sections, section, wanted, params)["dataset"]
        if dataset != config.dataset:
            what = f"{where}: {section}.{wanted} is of another data set"
            raise ConfigError(message(what, dataset, config.dataset, "name one of the same data set"))
    return config
