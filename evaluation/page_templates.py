"""The templates of pages: strict about names, escaping what they get, and free to use those of the leaderboard."""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(filters: Mapping[str, Callable[..., Any]], package: str = "evaluation") -> Environment:
    """Return what pages are rendered with.

    Args:
        filters: Name in templates -> function, beside those of Jinja.
        package: Where templates are looked for before ``evaluation``.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "evaluation"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, function in filters.items():
        environment.filters[name] = function
    return environment
