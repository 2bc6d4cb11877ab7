"""Switch between the two embedded servers by changing one word of params.yaml, comments and all else untouched."""

import re
from pathlib import Path

from assets.atomic import write_text
from assets.errors import ConfigError, message
from assets.section import unknown
from pipelines import store_server
from pipelines.params import PARAMS, load_store

_SERVERS = ("seaweedfs", "minio")
# the first indented "server:" after the line "store:", before any other section starts
_SERVER = re.compile(r"^(store:[^\n]*\n(?:(?:[ \t#][^\n]*)?\n)*?[ \t]+server:[ \t]*)[\w-]+", re.MULTILINE)


def use_server(server: str, params: Path = PARAMS, root: Path = Path()) -> None:
    """Name another embedded server in ``store.server`` and stop the one that ran; both may use the same port.

    Each server keeps its own data, so push again after a switch.

    Args:
        server: ``"seaweedfs"`` or ``"minio"``.
        params: The params.yaml to change.
        root: The repository.

    Raises:
        ConfigError: Unknown server, or ``store.server`` is not where it is expected.
    """
    if server not in _SERVERS:
        raise ConfigError(unknown(server, list(_SERVERS), "server"))
    before = load_store(params)
    if before.server == server:
        return
    if not before.embedded:
        raise ConfigError(message(f"{params}: store.server is external", fix="set server and endpoint by hand"))
    text, changes = _SERVER.subn(rf"\g<1>{server}", params.read_text(encoding="utf-8"), count=1)
    if not changes:
        raise ConfigError(message(f"{params}: no line server: .. below store:", fix=f"set store.server to {server}"))
    store_server.stop(before, root)
    write_text(params, text)
