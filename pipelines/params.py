"""The whole of params.yaml, checked at once: every section's own rules, then the names that sections share."""

import importlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from assets.atomic import write_json
from assets.code_stamp import code_digest
from assets.config import MachineConfig, read_sections
from assets.errors import ConfigError, message
from assets.manifest import value_digest
from assets.section import Section, parse, unknown
from assets.store import StoreConfig
from pipelines.references import wrong_references

if TYPE_CHECKING:
    from assets.concepts.config import ConceptsConfig
    from assets.dataset import DatasetConfig
    from assets.features.config import FeaturesConfig
    from assets.reduction.config import PolicyConfig
    from evaluation.config import EvaluationConfig, ReportConfig
    from evaluation.embed_config import EmbeddingsConfig
    from evaluation.export_config import ExportConfig
    from evaluation.promotion.config import PromotionConfig
    from evaluation.studies.config import StudyConfig
    from evaluation.words.index_config import IndexConfig
    from pipelines.automation.config import AutomationConfig
    from training.captioner.config import CaptionerConfig
    from training.config import RecipeConfig, RunConfig
    from training.teachers.config import TeacherConfig

PARAMS = Path("params.yaml")
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True, slots=True)
class Params:
    """Every section of a valid params.yaml."""

    profile: str
    machine: MachineConfig
    store: StoreConfig
    datasets: Mapping[str, "DatasetConfig"]
    features: Mapping[str, "FeaturesConfig"]
    embeddings: Mapping[str, "EmbeddingsConfig"]
    captioners: Mapping[str, "CaptionerConfig"]
    concepts: Mapping[str, "ConceptsConfig"]
    policies: Mapping[str, "PolicyConfig"]
    teachers: Mapping[str, "TeacherConfig"]
    recipes: Mapping[str, "RecipeConfig"]
    runs: Mapping[str, "RunConfig"]
    exports: Mapping[str, "ExportConfig"]
    indexes: Mapping[str, "IndexConfig"]
    studies: Mapping[str, "StudyConfig"]
    promotions: Mapping[str, "PromotionConfig"]
    evaluation: "EvaluationConfig"
    report: "ReportConfig"
    automation: "AutomationConfig"


class _Faults:
    """Collects what is wrong, so that one look shows all of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, text: str) -> None:
        self.lines.append(text)

    def attempt(self, action: Callable[[], SectionT]) -> SectionT | None:
        try:
            return action()
        except ConfigError as error:
            self.lines.append(str(error))
            return None

    def section(self, model: type[SectionT], data: Any, where: str) -> SectionT | None:
        return self.attempt(lambda: parse(model, data, where))

    def entries(
        self, parse_entry: Callable[[Any, str], SectionT], data: Any, where: str, may_be_empty: bool = False
    ) -> dict[str, SectionT]:
        if not isinstance(data, dict) or not (data or may_be_empty):
            self.add(message(where, data, "NAME: {..}" if may_be_empty else "at least one NAME: {..}"))
            return {}
        found: dict[str, SectionT] = {}
        for name, value in data.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                # the name becomes a folder, a DVC stage and a Dagster asset key
                self.add(f"{where}: bad name {name!r}, wanted lower-case letters and digits joined by - _ or .")
                continue
            config = self.attempt(partial(parse_entry, value, f"{where}.{name}"))
            if config is not None:
                found[name] = config
        self._refuse_twins([str(name) for name in data], where)
        return found

    def optional(self, model: type[SectionT], data: Any, where: str) -> dict[str, SectionT]:
        return self.entries(partial(parse, model), data, where, may_be_empty=True)

    def _refuse_twins(self, names: list[str], where: str) -> None:
        seen: dict[str, str] = {}
        for name in names:
            twin = seen.setdefault(re.sub(r"[.-]", "_", name), name)
            if twin != name:
                self.add(f"{where}: {twin!r} and {name!r} differ in punctuation only, which Dagster cannot tell apart")


def load_store(params: Path = PARAMS) -> StoreConfig:
    """Read the section ``store`` alone; quick, because no other section's code is loaded."""
    return parse(StoreConfig, read_sections(params)["store"], f"{params}: store")


def load_params(params: Path = PARAMS, memory: Path | None = None) -> Params:
    """Check all of params.yaml.

    Args:
        params: The file.
        memory: A file that remembers which recipes' methods passed with which code. Checking one loads its module and
            with it PyTorch, many seconds that a second look at the same values need not cost.

    Returns:
        Every section, parsed.

    Raises:
        ConfigError: Listing every fault, one a line.
    """
    from assets.dataset import DatasetConfig
    from assets.features.config import parse_features
    from evaluation.config import EvaluationConfig, ReportConfig
    from pipelines.automation.config import AutomationConfig
    from training.config import RecipeConfig, RunConfig

    data = read_sections(params)
    faults = _Faults()
    single: dict[str, Any] = {
        section: faults.section(model, data[section], f"{params}: {section}")
        for section, model in {
            "machine": MachineConfig,
            "store": StoreConfig,
            "evaluation": EvaluationConfig,
            "report": ReportConfig,
            "automation": AutomationConfig,
        }.items()
    }
    entries: dict[str, dict[str, Any]] = {
        "datasets": faults.entries(partial(parse, DatasetConfig), data["datasets"], f"{params}: datasets"),
        "features": faults.entries(parse_features, data["features"], f"{params}: features", may_be_empty=True),
        "recipes": faults.entries(partial(parse, RecipeConfig), data["recipes"], f"{params}: recipes"),
        "runs": faults.entries(partial(parse, RunConfig), data["runs"], f"{params}: runs"),
    }
    for section, model in _optional_sections().items():
        entries[section] = faults.optional(model, data[section], f"{params}: {section}")
    if not isinstance(data["profile"], str):
        faults.add(message(f"{params}: profile", data["profile"], "a name"))
    methods = {f"{params}: recipes.{name}.method": recipe.method for name, recipe in entries["recipes"].items()}
    _check_methods(faults, methods, memory)
    for text in wrong_references(data, entries):
        faults.add(f"{params}: {text}")
    _check_main_metric(faults, single["evaluation"], single["report"], params)
    _check_champions(faults, data, params)
    if faults.lines or None in single.values():
        raise ConfigError("\n".join(faults.lines))
    values: dict[str, Any] = {"profile": data["profile"], **single, **entries}
    return Params(**values)


def _optional_sections() -> "dict[str, type[Section]]":
    """Return the models of the sections that may be empty."""
    from assets.concepts.config import ConceptsConfig
    from assets.reduction.config import PolicyConfig
    from evaluation.embed_config import EmbeddingsConfig
    from evaluation.export_config import ExportConfig
    from evaluation.promotion.config import PromotionConfig
    from evaluation.studies.config import StudyConfig
    from evaluation.words.index_config import IndexConfig
    from training.captioner.config import CaptionerConfig
    from training.teachers.config import TeacherConfig

    return {
        "embeddings": EmbeddingsConfig,
        "captioners": CaptionerConfig,
        "concepts": ConceptsConfig,
        "policies": PolicyConfig,
        "teachers": TeacherConfig,
        "exports": ExportConfig,
        "indexes": IndexConfig,
        "studies": StudyConfig,
        "promotions": PromotionConfig,
    }


def _check_champions(faults: _Faults, data: Mapping[str, Any], params: Path) -> None:
    """Refuse champions that would take the folder of a run's model."""
    if isinstance(data["promotions"], dict) and isinstance(data["runs"], dict):
        for name in data["promotions"].keys() & data["runs"].keys():
            faults.add(f"{params}: promotions.{name}: a run has that name, and both would be models/{name}; rename one")


def _check_main_metric(
    faults: _Faults, evaluation: "EvaluationConfig | None", report: "ReportConfig | None", params: Path
) -> None:
    if evaluation is None or report is None:
        return
    suite = report.main_metric.partition(".")[0]
    if suite not in evaluation.evaluators:
        text = unknown(suite, list(evaluation.evaluators), "evaluator")
        faults.add(f"{params}: report.main_metric: {report.main_metric!r} comes from an {text}")


def _check_methods(faults: _Faults, methods: Mapping[str, dict[str, Any]], memory: Path | None) -> None:
    """Check each recipe's ``method`` with the config class of the method that it names.

    Args:
        faults: Where faults go.
        methods: Place in the file -> plain data.
        memory: What passed before.
    """
    from training.methods import METHODS

    passed: set[str] = set()
    if memory is not None and memory.is_file():
        passed |= set(json.loads(memory.read_text(encoding="utf-8")))
    known = len(passed)
    for where, values in methods.items():
        module, _, attribute = METHODS[values["kind"]].partition(":")
        digest = value_digest([values, code_digest(module)])
        if digest in passed:
            continue
        method: Any = getattr(importlib.import_module(module), attribute)
        if faults.section(method.Config, values, where) is not None:
            passed.add(digest)
    if memory is not None and len(passed) > known:
        write_json(memory, sorted(passed))
