"""One entry of the section ``teachers``: a model that students learn from, and which of their views it looks at before.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from assets.config import entry, read_sections
from assets.errors import ConfigError, message
from assets.section import Section, parse
from training.checkpoint_config import NO_RUN, ModelChoice
from training.data.views import ViewsConfig

TEACHERS = Path("data/teachers")
NO_TEACHER = "none"
"""What a run names that learns from no teacher, and a teacher that takes no other one in."""


class CacheConfig(Section):
    """What a teacher says of each pair once, so that students train without running it."""

    views: int = Field(ge=1, le=1024)
    """Random views of each image, K; students see no others."""
    seed: int = Field(ge=0, lt=2**32)
    """Decides the views: view v of a pair is what training would draw with this seed in epoch v."""
    crop: ViewsConfig
    """How a view is drawn; must equal the student's ``views``."""


class TeacherConfig(ModelChoice):
    """Who teaches which data set; the section ``teachers.NAME``."""

    dataset: str
    """The data set whose accepted training pairs it is asked about."""
    ensemble_with: str
    """A teacher of the same data set whose models, and what they said, stand before this one's; or none."""
    logit_scale: float | None = Field(default=None, gt=0, le=1000)
    """What its cosines are multiplied by; null takes the model's own scale."""
    cache: CacheConfig | None = None
    """null for no cache: students then run the teacher on what they see."""


def load_teacher(params: Path, name: str) -> TeacherConfig:
    """Read ``teachers.<name>``; check that what it names exists and that the teacher it takes in fits it.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, a wrong value, or an ensemble whose members have different data sets or caches.
    """
    sections = read_sections(params)
    config = _parse(sections, name, params)
    entry(sections, "datasets", config.dataset, params)
    if config.run != NO_RUN:
        entry(sections, "runs", config.run, params)
    if config.ensemble_with == NO_TEACHER:
        return config
    place = f"{params}: teachers.{name}.ensemble_with"
    if config.ensemble_with == name:
        raise ConfigError(message(f"{place} names the teacher itself", fix=f"name another one, or {NO_TEACHER}"))
    other = _parse(sections, config.ensemble_with, params)
    if other.dataset != config.dataset:
        what = f"{place}: {config.ensemble_with} teaches another data set"
        raise ConfigError(message(what, other.dataset, config.dataset, "take teachers of one data set"))
    if other.cache != config.cache:
        raise other_cache(f"{place}: {config.ensemble_with}", other.cache, config.cache)
    return config


def other_cache(place: str, got: CacheConfig | None, wanted: CacheConfig | None) -> ConfigError:
    """Return the error of an ensemble whose members were not asked about the same views.

    Args:
        place: The member that stands for the others.
        got: Its cache.
        wanted: That of the teacher that takes it in.
    """
    found, needed = ("no cache" if cache is None else cache.model_dump_json() for cache in (got, wanted))
    fix = "give all members of an ensemble one cache"
    return ConfigError(message(f"{place} has another cache", found, needed, fix))


def _parse(sections: dict[str, Any], name: str, params: Path) -> TeacherConfig:
    return parse(TeacherConfig, entry(sections, "teachers", name, params), f"{params}: teachers.{name}")
