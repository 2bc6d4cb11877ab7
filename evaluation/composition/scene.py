"""What KEY.json says completely of a picture, so that what it does not say is false."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from evaluation.scene_objects import SceneObject, scene_objects


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture whose objects are all known.

    Attributes:
        objects: All of them.
        counts: Name -> how many, in the order of ``objects``.
        background: Texture and colour of what is behind, e.g. ``("striped", "blue")``, or None if that is not told.
    """

    objects: tuple[SceneObject, ...]
    counts: Mapping[str, int]
    background: tuple[str, str] | None

    def single(self, name: str) -> SceneObject:
        """Return the object of a name that occurs once."""
        return next(item for item in self.objects if item.name == name)


def read_scene(metadata: Mapping[str, Any]) -> Scene | None:
    """Read ``objects``, ``counts`` and ``background`` of KEY.json.

    Args:
        metadata: The content of KEY.json.

    Returns:
        None unless ``counts`` confirms that ``objects`` lists everything: lists of boxes made by people or detectors
        are seldom complete, and a foil with an object that was only not listed would be true.
    """
    objects = tuple(scene_objects(metadata))
    counted = metadata.get("counts")
    told = cast("Mapping[str, Any]", counted) if isinstance(counted, Mapping) else {}
    found = Counter(item.name for item in objects)
    if not objects or sorted(found.values()) != sorted(n for n in told.values() if isinstance(n, int)):
        return None
    return Scene(objects, found, _background(metadata.get("background")))


def _background(value: Any) -> tuple[str, str] | None:
    told = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
    texture, colour = told.get("texture"), told.get("colour")
    return (texture, colour) if isinstance(texture, str) and isinstance(colour, str) else None
