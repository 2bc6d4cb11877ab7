"""Which class a label names: by the class's name, or its number."""

import difflib
from collections import Counter
from collections.abc import Sequence

from assets.errors import DataError, message

_FIX = "correct the name, or splits.*.classes"


class ClassLookup:
    """Numbers of classes by what a label may say: the class's name, whatever its case, or the number itself.

    Args:
        names: Name of class 0, 1, ..; an underscore counts as a blank.
        split: Name of the split, for errors.
    """

    def __init__(self, names: Sequence[str], split: str) -> None:
        self._split = split
        self._names = names
        spelled = [plain_name(name) for name in names]
        self._numbers = {name: class_id for class_id, name in enumerate(spelled)}
        self._double = {name for name, count in Counter(spelled).items() if count > 1}

    def class_id(self, label: str) -> int:
        """Return the class that a label names.

        Args:
            label: A name or a number.

        Raises:
            DataError: No class is called so, or two are.
        """
        plain = plain_name(label)
        if plain in self._double:
            what = f"a label of split {self._split} is the name of two classes"
            raise DataError(message(what, label, fix="write the class's number instead"))
        if plain in self._numbers:
            return self._numbers[plain]
        if plain.isdecimal() and int(plain) < len(self._names):
            return int(plain)
        near = difflib.get_close_matches(plain, self._numbers, n=1)
        wanted = f"a class's name{f' (perhaps {near[0]!r})' if near else ''} or number (0 to {len(self._names) - 1})"
        raise DataError(message(f"a label of split {self._split} names no class", label, wanted, _FIX))


def plain_name(name: str) -> str:
    """Return the name of a class without differences of case, underscores and spacing."""
    return " ".join(name.replace("_", " ").casefold().split())
