"""The folders that pictures lie in, as labels."""

from collections.abc import Iterable, Sequence

from assets.errors import DataError, message


def parent_name(path: str) -> str | None:
    """Return the name of the folder that a file lies in, None outside all folders.

    Args:
        path: Relative to the folder of the split.
    """
    return path.rpartition("/")[0].rpartition("/")[2] or None


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
