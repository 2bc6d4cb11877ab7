"""Planted noise: five ways in which a caption fails its picture, as they occur in data from the web."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from assets.sources.emoji_scenes.claims import Claims

KINDS = ("mismatch", "partial", "wrong_count", "generic", "file_name")

# Empty talk in every language, so that no language of a noisy sample gives the truth away.
_GENERIC: dict[str, tuple[str, ...]] = {
    "en": ("a nice picture", "image", "click to enlarge", "stock photo", "my favourite", "best wishes to all"),
    "de": ("ein sch\u00f6nes Bild", "Bild", "zum Vergr\u00f6\u00dfern klicken"),
    "es": ("una bonita imagen", "imagen", "haga clic para ampliar"),
    "fr": ("une belle image", "image", "cliquez pour agrandir"),
    "it": ("una bella immagine", "immagine", "clicca per ingrandire"),
    "pt": ("uma bela imagem", "imagem", "clique para ampliar"),
    "id": ("gambar yang bagus", "gambar", "klik untuk memperbesar"),
    "tr": ("g\u00fczel bir resim", "resim", "b\u00fcy\u00fctmek i\u00e7in t\u0131klay\u0131n"),
    "ru": (
        "\u043a\u0440\u0430\u0441\u0438\u0432\u0430\u044f \u043a\u0430\u0440\u0442\u0438\u043d\u043a\u0430",
        "\u0444\u043e\u0442\u043e",
    ),
    "ar": ("\u0635\u0648\u0631\u0629 \u062c\u0645\u064a\u0644\u0629", "\u0635\u0648\u0631\u0629"),
    "fa": ("\u062a\u0635\u0648\u06cc\u0631 \u0632\u06cc\u0628\u0627", "\u062a\u0635\u0648\u06cc\u0631"),
    "ja": ("\u304d\u308c\u3044\u306a\u5199\u771f", "\u753b\u50cf"),
    "ko": ("\uba4b\uc9c4 \uc0ac\uc9c4", "\uc774\ubbf8\uc9c0"),
    "zh": ("\u6f02\u4eae\u7684\u56fe\u7247", "\u56fe\u50cf"),
}
_FILE_NAMES = ("IMG_{:04d}.jpg", "DSC{:05d}.JPG", "image{:d}.png", "photo-{:d}.jpeg", "untitled{:d}.bmp")
_MOST_OF_A_KIND = 5


def choose_kind(rng: Random, claims: Claims) -> str:
    """Draw a kind of noise that fits the scene; leaving things out needs two of them."""
    kinds = KINDS if len(claims.things) > 1 else tuple(kind for kind in KINDS if kind != "partial")
    return kinds[int(rng.random() * len(kinds))]


def bent_claims(kind: str, claims: Claims, rng: Random, other: Callable[[], Claims]) -> Claims:
    """Return what the captions of a noisy sample claim.

    Args:
        kind: One of ``KINDS``.
        claims: The truth.
        rng: Chooses what is wrong.
        other: Makes the claims of an unrelated scene.

    Returns:
        The wrong claims; the truth for the two kinds that do not speak of the picture at all.
    """
    if kind == "mismatch":
        return other()
    if kind == "partial":
        kept = sorted(rng.sample(range(len(claims.things)), rng.randrange(1, len(claims.things))))
        return replace(claims, things=tuple(claims.things[i] for i in kept))
    if kind == "wrong_count":
        at = rng.randrange(len(claims.things))
        thing = claims.things[at]
        wrong = rng.choice([count for count in range(1, _MOST_OF_A_KIND + 1) if count != thing.count])
        things = [*claims.things]
        things[at] = replace(thing, count=wrong)
        return replace(claims, things=tuple(things))
    return claims


def empty_talk(kind: str, rng: Random, languages: tuple[str, ...]) -> dict[str, str] | None:
    """Return captions that say nothing, per language and for ``long``; None for kinds that speak of a scene.

    Args:
        kind: One of ``KINDS``.
        rng: Chooses the words.
        languages: The keys wanted beside ``long``.
    """
    if kind == "generic":
        said = {language: rng.choice(_GENERIC[language]) for language in languages}
        return {**said, "long": said["en"]}
    if kind == "file_name":
        name = rng.choice(_FILE_NAMES).format(rng.randrange(1, 10000))
        return dict.fromkeys((*languages, "long"), name)
    return None
