"""Which class a label names: a folder's name, the folder's place among the others, or a cell of a captions file."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

from assets.errors import DataError, message

_FIX = "correct the name, or splits.*.classes"


def parent_name(path: str) -> str | None:
    """Return the name of the folder that a file lies in, None outside all folders.

    Args:
        path: Relative to the folder of the split.
    """
    return path.rpartition("/")[0].rpartition("/")[2] or None


class ClassLookup:
    """Numbers of classes by what a label may say: the class's name, whatever its case, or the number itself.

    Args:
        names: Name of class 0, 1, ..; an underscore counts as a blank.
        split: Name of the split, for errors.
    """

    def __init__(self, names: Sequence[str], split: str) -> None:
        self._split = split
        self._names = names
        spelled = [_plain(name) for name in names]
        self._numbers = {name: class_id for class_id, name in enumerate(spelled)}
        self._double = {name for name, count in Counter(spelled).items() if count > 1}

    def class_id(self, label: str) -> int:
        """Return the class that a label names.

        Args:
            label: A name or a number.

        Raises:
            DataError: No class is called so, or two are.
        """
        plain = _plain(label)
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


def number_folders(paths: Iterable[str], names: Sequence[str], split: str) -> dict[str, int]:
    """Number folders as torchvision's ImageFolder does: by their names' order.

    Args:
        paths: Pictures, relative to the folder of the split.
        names: Name of class 0, 1, ..
        split: Name of the split, for errors.

    Returns:
        Name of a folder -> class.

    Raises:
        DataError: There are more or fewer folders than classes.
    """
    folders = sorted({name for name in map(parent_name, paths) if name})
    if len(folders) != len(names):
        what = f"split {split} has another number of folders with pictures than there are classes"
        raise DataError(message(what, len(folders), len(names), "correct splits.*.classes, or the folders"))
    return {folder: class_id for class_id, folder in enumerate(folders)}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
