"""The twelve colours: naming what a sprite looks like, and how well it stands out from a background."""

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 52, 56),
    "orange": (242, 148, 60),
    "yellow": (250, 221, 92),
    "green": (86, 168, 88),
    "teal": (58, 174, 170),
    "blue": (62, 122, 214),
    "purple": (142, 88, 192),
    "pink": (246, 164, 198),
    "brown": (140, 94, 66),
    "white": (246, 246, 244),
    "grey": (152, 156, 162),
    "black": (40, 42, 48),
}
COLOUR_NAMES = tuple(COLOURS)

# Further shades the two art styles use, so that naming is by the nearest of several examples.
_SHADES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (221, 46, 68)), ("red", (160, 4, 30)), ("red", (234, 90, 71)), ("red", (211, 47, 39)),
    ("orange", (244, 144, 12)), ("orange", (225, 120, 40)), ("yellow", (255, 204, 77)), ("yellow", (252, 234, 43)),
    ("yellow", (241, 179, 28)), ("green", (62, 114, 29)), ("green", (119, 178, 85)), ("green", (92, 158, 49)),
    ("green", (177, 204, 51)), ("green", (166, 211, 136)), ("teal", (30, 130, 130)), ("blue", (85, 172, 238)),
    ("blue", (34, 102, 153)), ("blue", (146, 211, 245)), ("blue", (97, 178, 228)), ("blue", (30, 80, 160)),
    ("purple", (170, 141, 216)), ("purple", (116, 78, 170)), ("purple", (176, 102, 196)), ("pink", (234, 89, 110)),
    ("pink", (244, 171, 186)), ("pink", (255, 167, 192)), ("brown", (193, 105, 79)), ("brown", (102, 33, 19)),
    ("brown", (165, 120, 84)), ("brown", (106, 70, 42)), ("brown", (160, 105, 65)), ("brown", (217, 158, 130)),
    ("white", (225, 232, 237)), ("white", (255, 255, 255)), ("grey", (153, 170, 181)), ("grey", (204, 214, 221)),
    ("grey", (103, 117, 127)), ("grey", (155, 155, 154)), ("grey", (208, 207, 206)), ("black", (41, 47, 51)),
    ("black", (0, 0, 0)),
)  # fmt: skip
_DISTINCT = 33.0
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float32)
_WHITE = np.array([0.9505, 1.0, 1.089], dtype=np.float32)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Convert colours to CIELAB, where distance is about what the eye sees.

    Args:
        rgb: sRGB values 0..255, [..., 3].

    Returns:
        L, a, b as float32, [..., 3].
    """
    value = np.asarray(rgb, dtype=np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def second_tone(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the other tone of a texture: the colour lightened when it is dark, darkened when it is light."""
    light = sum(rgb) > 390
    target, share = (0, 0.13) if light else (255, 0.18)
    return tuple(round(channel + (target - channel) * share) for channel in rgb)  # pyright: ignore[reportReturnType]


_TONES = lab(np.array([tone for rgb in COLOURS.values() for tone in (rgb, second_tone(rgb))]))  # [24, 3]
_EXAMPLES = [*COLOURS.items(), *_SHADES]
_EXAMPLE_LAB = lab(np.array([rgb for _, rgb in _EXAMPLES]))
_EXAMPLE_COLOUR = np.array([COLOUR_NAMES.index(name) for name, _ in _EXAMPLES])


def dominant(pixels: np.ndarray) -> str:
    """Name the colour that most pixels have.

    Args:
        pixels: Opaque pixels of a sprite, sRGB [P, 3].
    """
    distance = _squared_distance(lab(pixels), _EXAMPLE_LAB)
    votes = np.bincount(_EXAMPLE_COLOUR[distance.argmin(axis=1)], minlength=len(COLOUR_NAMES)).astype(float)
    # outlines and pupils are black and highlights white whatever the thing's colour is
    votes[[COLOUR_NAMES.index("black"), COLOUR_NAMES.index("white")]] *= 0.7
    return COLOUR_NAMES[int(votes.argmax())]


def contrast(pixels: np.ndarray) -> np.ndarray:
    """Measure how much of a sprite stands out from each background colour.

    Args:
        pixels: Opaque pixels of a sprite, sRGB [P, 3].

    Returns:
        For each of the twelve colours the share of pixels that differ clearly from both its tones, [12] float.
    """
    distance = _squared_distance(lab(pixels), _TONES).reshape(len(pixels), len(COLOURS), 2).min(axis=-1)
    return (distance > _DISTINCT**2).mean(axis=0)


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared distances of all rows, [A, B], from a [A, 3] and b [B, 3]."""
    return (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)[None]
