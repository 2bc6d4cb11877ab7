"""params.yaml: read once, checked against frozen models, with errors that name the nearest valid key."""

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from assets.errors import ConfigError, message


class Section(BaseModel):
    """Base of every config model: frozen, strict about types, unknown keys refused with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for key in data:
            if key not in cls.model_fields:
                raise PydanticCustomError("unknown_key", "{text}", {"text": unknown(str(key), list(cls.model_fields))})
        # this validator hands on Python data, of which strict mode takes only tuples for tuples
        return {
            key: tuple(value) if isinstance(value, list) and _is_tuple(cls, key) else value
            for key, value in data.items()
        }


def _is_tuple(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation
    return any(get_origin(kind) is tuple for kind in (annotation, *get_args(annotation)))


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
        lines: list[str] = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
            lines.append(f"{where}{'.' if place and where else ''}{place}: {item['msg']}{got}")
        raise ConfigError("\n".join(lines)) from error
