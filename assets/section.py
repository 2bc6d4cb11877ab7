"""params.yaml: read once, checked against frozen models, with errors that name the nearest valid key."""

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from assets.errors import ConfigError, message


class Section(BaseModel):
    """Base of every config model: frozen, strict about types, unknown keys refused (:func:`parse` suggests one)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


SectionT = TypeVar("SectionT", bound=Section)


def unknown(name: str, valid: list[str], what: str = "key") -> str:
    """Say that ``name`` is not one of ``valid``, with the nearest valid one when there is one.

    Args:
        name: What the user wrote.
        valid: What would have been accepted.
        what: The noun, e.g. ``"key"`` or ``"recipe"``.

    Returns:
        One sentence.
    """
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{hint}; valid: {', '.join(sorted(valid)) or 'none'}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (so that ``1e-3`` is a number).

    Args:
        path: The file.

    Returns:
        The mapping with plain Python types.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping.
    """
    if not path.is_file():
        raise ConfigError(message(f"{path} does not exist", fix='run inside the repository, or pass "--params FILE"'))
    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(message(f"{path} is not readable as YAML ({where})", fix="mend the file")) from error
    if not isinstance(value, dict):
        raise ConfigError(message(f"{path} must hold a mapping", type(value).__name__, "sections", "mend the file"))
    return value


def _sections_in(annotation: Any) -> list[type[Section]]:
    """Return the config classes that a field's annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _sections_in(argument)]


def _valid_keys(model: type[Section], place: tuple[str | int, ...]) -> list[str]:
    """Return the keys accepted at a place pydantic reports: field names, dict keys, indices and union tags."""
    here: list[type[Section]] = [model]
    for part in place:
        fields = [cls.model_fields[part] for cls in here if isinstance(part, str) and part in cls.model_fields]
        tagged = [
            cls for cls in here if "kind" in cls.model_fields and part in get_args(cls.model_fields["kind"].annotation)
        ]
        here = [found for field in fields for found in _sections_in(field.annotation)] if fields else tagged or here
    return sorted({key for cls in here for key in cls.model_fields})


def _explain(model: type[Section], error: ErrorDetails, where: str) -> str:
    """Turn one pydantic error into a line with its place."""
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        text, place = unknown(str(place[-1]), _valid_keys(model, place[:-1])), place[:-1]
    else:
        text = error["msg"].removeprefix("Value error, ")
        text += "" if isinstance(error["input"], dict) else f", got {error['input']!r}"
    return f"{'.'.join([where, *map(str, place)])}: {text}"


def parse(model: type[SectionT], data: Any, where: str) -> SectionT:
    """Check plain data against a model.

    Args:
        model: The section's class.
        data: What the YAML file holds at ``where``.
        where: The path of keys shown in errors, e.g. ``"params.yaml: recipes.clip"``.

    Returns:
        The frozen config.

    Raises:
        ConfigError: Naming every wrong key with what was wanted.
    """
    try:
        # through JSON, because pydantic's strict mode takes lists for tuples and strings for paths only there
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, item, where) for item in error.errors())) from error
