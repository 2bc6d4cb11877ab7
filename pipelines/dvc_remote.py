"""Point DVC's remote at the store of params.yaml, in the git-ignored ``.dvc/config.local``."""

import configparser
import io
from pathlib import Path

from assets.errors import ConfigError, message
from assets.store import Credentials, StoreConfig, write_private

REMOTE = "store"
_SECTION = f"'remote \"{REMOTE}\"'"
_KEYS = ("access_key_id", "secret_access_key")


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="", strict=False)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    if path.is_file():
        parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def remote_url(config: StoreConfig) -> str:
    """Return the address under which DVC keeps its cache in the bucket."""
    return f"s3://{config.bucket}/dvc"


def configure_dvc_remote(config: StoreConfig, credentials: Credentials, root: Path = Path()) -> bool:
    """Write address and keys of the store to ``.dvc/config.local`` (mode 0600), leaving other settings alone.

    Keys from the environment are not copied into the file: DVC reads the same variables.

    Args:
        config: The section ``store``.
        credentials: The keys found for it.
        root: The repository.

    Returns:
        Whether the file changed.

    Raises:
        ConfigError: ``root`` is no DVC repository, or the file is damaged.
    """
    path = root / ".dvc" / "config.local"
    if not path.parent.is_dir():
        raise ConfigError(message(f"{path.parent} does not exist", fix="run inside the repository"))
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        parser = _read(path)
    except configparser.Error as error:
        raise ConfigError(message(f"{path} is damaged ({error})", fix="remove it and try again")) from error
    if not parser.has_section(_SECTION):
        parser.add_section(_SECTION)
    settings = {
        "url": remote_url(config),
        "endpointurl": config.endpoint,
        "region": config.region,
    }
    for key in _KEYS:
        parser.remove_option(_SECTION, key)
    if not credentials.source.startswith("environment"):
        settings |= dict(zip(_KEYS, (credentials.access_key, credentials.secret_key), strict=True))
    for key, value in settings.items():
        parser.set(_SECTION, key, value)
    text = io.StringIO()
    parser.write(text)
    if text.getvalue() == before:
        return False
    write_private(path, text.getvalue())
    return True


def configured_url(root: Path = Path()) -> str | None:
    """Return the address that ``.dvc/config.local`` gives our remote, or None when it gives none."""
    try:
        return _read(root / ".dvc" / "config.local").get(_SECTION, "url", fallback=None)
    except configparser.Error:
        return None
