"""The classes of zero-shot splits by their names, and which of them a caption mentions."""

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from assets.errors import DataError, message
from assets.sources.base import ClassInfo, frequency_thirds

_WORD = re.compile(r"\w+")
_DEFAULT_GROUP = "class"


class ClassNames:
    """Names of classes 0, 1, ..

    Args:
        names: English name per class, at least one, none empty.
        groups: A coarse category per class; all are one group if there are none.

    Attributes:
        names: English name per class.
    """

    def __init__(self, names: Sequence[str], groups: Sequence[str] | None = None) -> None:
        self.names = list(names)
        self._groups = list(groups or [_DEFAULT_GROUP] * len(names))
        # imported late: it takes four seconds of CPU to load, in every worker
        plural = importlib.import_module("inflect").engine().plural_noun
        self._plurals = [str(plural(name)) for name in self.names]
        self._by_words: dict[tuple[str, ...], list[int]] = {}
        for class_id, forms in enumerate(zip(self.names, self._plurals, strict=True)):
            for words in {_words(form) for form in forms}:
                self._by_words.setdefault(words, []).append(class_id)
        self._most_words = max(map(len, self._by_words))

    @classmethod
    def from_file(cls, path: Path) -> "ClassNames":
        """Read names from a file.

        Args:
            path: A UTF-8 text file, one name a line, with a tab and a group behind it if there are groups.

        Raises:
            DataError: The file is missing, is no text, or a line of it is empty.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                message(f"the file of classes {path} is not readable ({error})", fix="correct splits.*.classes")
            ) from error
        rows = [line.partition("\t") for line in lines]
        names = [name.strip() for name, _, _ in rows]
        if not rows or "" in names:
            # a line that is left blank would shift the numbers of all classes behind it
            line = names.index("") + 1 if rows else 1
            raise DataError(message(f"{path} line {line} has no class name", fix="write one name a line"))
        return cls(names, [group.strip() or _DEFAULT_GROUP for _, _, group in rows])

    def mentioned(self, caption: str) -> tuple[str, ...]:
        """Return the ids, as text, of the classes whose name or plural stands in a caption as whole words."""
        words = _words(caption)
        found = {
            class_id
            for start in range(len(words))
            for stop in range(start + 1, min(start + self._most_words, len(words)) + 1)
            for class_id in self._by_words.get(words[start:stop], ())
        }
        return tuple(str(class_id) for class_id in sorted(found))

    def classes(self, train_counts: Mapping[str, int]) -> list[ClassInfo]:
        """Describe every class.

        Args:
            train_counts: Class id as text -> number of train captions that mention it.
        """
        counts = [train_counts.get(str(class_id), 0) for class_id in range(len(self.names))]
        facts = zip(self.names, self._plurals, self._groups, counts, frequency_thirds(counts), strict=True)
        return [ClassInfo(class_id, *fact) for class_id, fact in enumerate(facts)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))
