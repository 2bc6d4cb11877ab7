"""Profiles: ready-made params.yaml files for a size of machine, selected by copying one over params.yaml."""

from dataclasses import dataclass
from pathlib import Path

from assets.atomic import atomic_file
from assets.errors import ConfigError, message
from assets.section import unknown

PROFILES = Path("profiles")
PARAMS = Path("params.yaml")
BACKUP = "params.yaml.bak"


@dataclass(frozen=True, slots=True)
class Selection:
    """What selecting a profile did.

    Attributes:
        name: The profile now in params.yaml.
        changed: Whether params.yaml is another file than before.
        backup: Where an edited params.yaml was kept, when there was one.
    """

    name: str
    changed: bool
    backup: Path | None


def list_profiles(root: Path = Path()) -> dict[str, str]:
    """Return profile name -> its description, the first comment line of ``profiles/NAME.yaml``."""
    found: dict[str, str] = {}
    for path in sorted((root / PROFILES).glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.stem] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def current_profile(root: Path = Path()) -> str | None:
    """Return the profile that params.yaml equals byte for byte, or None when it was edited or is missing."""
    params = root / PARAMS
    if not params.is_file():
        return None
    content = params.read_bytes()
    return next((p.stem for p in sorted((root / PROFILES).glob("*.yaml")) if p.read_bytes() == content), None)


def select_profile(name: str, root: Path = Path(), force: bool = False) -> Selection:
    """Make params.yaml a copy of ``profiles/NAME.yaml``.

    Args:
        name: The profile.
        root: The repository.
        force: Replace a params.yaml that was edited; it is kept as ``params.yaml.bak``.

    Returns:
        What was done.

    Raises:
        ConfigError: There is no such profile, or params.yaml was edited and ``force`` is not given.
    """
    profiles = list_profiles(root)
    if name not in profiles:
        raise ConfigError(unknown(name, list(profiles), "profile"))
    params, current = root / PARAMS, current_profile(root)
    if current == name:
        return Selection(name, changed=False, backup=None)
    backup = None
    if params.is_file() and current is None:
        if not force:
            raise ConfigError(
                message(
                    f"{params} was edited: it equals no file in {root / PROFILES}",
                    fix=f'"clipfoundry profile {name} --force" replaces it and keeps it as {BACKUP}',
                )
            )
        backup = root / BACKUP
        _copy(params, backup)
    _copy(root / PROFILES / f"{name}.yaml", params)
    return Selection(name, changed=True, backup=backup)


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as temporary:
        temporary.write_bytes(source.read_bytes())
