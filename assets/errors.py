"""The two errors a user can cause, and the one form their messages take."""


class ConfigError(ValueError):
    """A value in params.yaml, on the command line or in the environment is wrong."""


class DataError(ValueError):
    """A file or folder handed to a stage is missing, damaged or of another kind."""


class StoreError(RuntimeError):
    """The object store cannot be reached or refuses the credentials."""


def message(what: str, got: object = None, wanted: object = None, fix: str | None = None) -> str:
    """Compose an error text: what is wrong and where, got what, wanted what, what to do.

    Args:
        what: The fault and its place, e.g. ``"shard 00017.tar in data/raw/cc3m: wrong sample count"``.
        got: The value met, left out when None.
        wanted: The value or values accepted, left out when None.
        fix: What the reader should do next, as an imperative.

    Returns:
        One line, parts joined by commas and a semicolon before the fix.
    """
    text = what
    if got is not None:
        text += f", got {got!r}" if isinstance(got, str) else f", got {got}"
    if wanted is not None:
        text += f", wanted {wanted}"
    return f"{text}; {fix}" if fix else text
