r"""The part of DVC's templating that dvc.yaml uses: ``${a.b}``, ``${a[0]}``, ``${a[key]}``, ``\${`` for a literal."""

import re
from collections.abc import Mapping
from typing import Any

from assets.errors import ConfigError, message
from assets.section import unknown

_TEMPLATE = re.compile(r"(?<!\\)\$\{\s*([^{}]+?)\s*\}")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]+)\]")


def interpolate(value: Any, context: Mapping[str, Any], where: str) -> Any:
    """Resolve every template in a value.

    Args:
        value: Plain YAML data.
        context: What templates may name.
        where: The stage, for errors.

    Returns:
        The same data with templates replaced; a string that is one template takes the type of what it names.

    Raises:
        ConfigError: A template names nothing, or a list or mapping inside a longer string.
    """
    if isinstance(value, dict):
        return {interpolate(k, context, where): interpolate(v, context, where) for k, v in value.items()}
    if isinstance(value, list):
        return [interpolate(item, context, where) for item in value]
    if not isinstance(value, str):
        return value
    if whole := _TEMPLATE.fullmatch(value):
        return _look_up(whole[1], context, where)
    text = _TEMPLATE.sub(lambda found: _scalar(found[1], context, where), value)
    return text.replace("\\${", "${")


def _scalar(name: str, context: Mapping[str, Any], where: str) -> str:
    found = _look_up(name, context, where)
    if isinstance(found, dict | list):
        kind = "a list" if isinstance(found, list) else "a mapping"
        raise ConfigError(message(f"{where}: ${{{name}}} stands in a text", kind, "a single value", "mend dvc.yaml"))
    if isinstance(found, bool):
        return str(found).lower()
    return "" if found is None else str(found)


def _look_up(name: str, context: Mapping[str, Any], where: str) -> Any:
    found: Any = context
    for plain, bracketed in _STEP.findall(name):
        step = plain or bracketed
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, Mapping) and step in found:
            found = found[step]
        else:
            valid = [str(key) for key in found] if isinstance(found, Mapping) else []
            raise ConfigError(f"{where}: ${{{name}}}: {unknown(step, valid)}")
    return found
