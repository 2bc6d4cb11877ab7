"""Names in words: clean English names with article and plural, and the names and lists of the other languages."""

import re
import unicodedata
from functools import cache

import emoji
from babel.lists import format_list

from assets.sources.emoji_scenes.taxonomy import IRREGULAR_PLURALS, MASS_NOUNS, PAIRS, RENAMED, SINGULAR_IN_S

LANGUAGES = ("de", "es", "fr", "it", "pt", "id", "tr", "ru", "ar", "fa", "ja", "ko", "zh")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_TIMES = "\u00d7"
_LONGEST_LIST = 5

# The head of a name stands before these: "statue of liberty", "person juggling", "house with garden".
_TAIL = re.compile(r"(.+?)( (?:of|with|in|on|behind|without|under|from|for|at|over|[a-z]+ing)(?: .*|$))")
_KEEP_ING = frozenset({"wing", "ring", "king", "sling", "string", "building", "painting", "dumpling", "earring"})


def clean(name: str) -> str:
    """Turn ``:red_apple:`` into ``red apple`` and apply the table of better names."""
    text = re.sub(r"[_\s]+", " ", unicodedata.normalize("NFC", name).strip(":")).strip()
    return RENAMED.get(text, text).replace("\u2019", "'").replace("\u201c", "").replace("\u201d", "")


def _split_head(name: str) -> tuple[str, str]:
    found = _TAIL.fullmatch(name)
    if not found or found[2].split()[0] in _KEEP_ING:
        return name, ""
    return found[1], found[2]


def is_mass(name: str) -> bool:
    """Say whether a name is a substance, which takes no article and no plural."""
    return name in MASS_NOUNS


@cache
def is_plural(name: str) -> bool:
    """Say whether a name is a plural already, as in "cherries" or "glasses"."""
    word = _split_head(name)[0].split()[-1].lower()
    if word in ("people", "dice"):
        return True
    singular = word in SINGULAR_IN_S or word.endswith(("ss", "us", "is"))
    return word == "skis" or (word.endswith("s") and not singular)


@cache
def plural(name: str) -> str:
    """Return the plural of an English name; a plural comes back as it is."""
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    if is_mass(name):
        return f"pieces of {name}"
    if is_plural(name):
        return name
    head, tail = _split_head(name)
    return " and ".join(_plural_word(part) for part in head.split(" and ")) + tail


def _plural_word(text: str) -> str:
    before, _, word = text.rpartition(" ")
    if word in IRREGULAR_PLURALS:
        many = IRREGULAR_PLURALS[word]
    else:
        many = _regular_plural(word)
    return f"{before} {many}".strip()


def _regular_plural(word: str) -> str:
    # the package inflect knows more, but takes four seconds to import; a test compares the two over all concepts
    for ending, many in (("woman", "women"), ("man", "men"), ("knife", "knives"), ("fish", "fish")):
        if word.endswith(ending):
            return word.removesuffix(ending) + many
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"


def article(name: str) -> str:
    """Return ``a`` or ``an`` as the sound of the name's beginning asks for."""
    if re.match(r"(?:uni|use|uten|euro|one\b|X-|[FHLMNRSX][A-Z])", name):
        return "an" if name[0] in "FHLMNRSX" else "a"
    return "an" if name[0].lower() in "aeiou" or name.startswith(("hour", "honest", "heir")) else "a"


@cache
def counted(name: str, count: int) -> str:
    """Return a name with its number: "an apple", "three apples", "some cherries", "two pairs of glasses".

    Args:
        name: A clean English name.
        count: How many, at least 1.
    """
    if count > 1:
        if is_plural(name) and not is_mass(name):
            # "two cherries" would count the fruit and not the sprite
            return f"{NUMBERS[count]} {'pairs' if name in PAIRS else 'sets'} of {name}"
        return f"{NUMBERS[count]} {plural(name)}"
    if is_mass(name) or is_plural(name):
        return f"some {name}"
    return f"{article(name)} {name}"


@cache
def definite(name: str, count: int) -> str:
    """Return "the apple", "the three apples", "the cherries"."""
    return f"the {name}" if count == 1 else f"the {counted(name, count)}"


def is_many(name: str, count: int) -> bool:
    """Say whether the verb must be plural."""
    return count > 1 or (is_plural(name) and not is_mass(name))


@cache
def list_template(language: str, length: int) -> str:
    """Return the CLDR list of ``length`` items as a format string, e.g. ``"{0}, {1} und {2}"``."""
    return str(format_list([f"{{{i}}}" for i in range(length)], style="standard", locale=language))


def join(parts: list[str], language: str = "en") -> str:
    """Join names as the language does.

    Args:
        parts: At least one name.
        language: ``en`` or one of ``LANGUAGES``.
    """
    return list_template(language, len(parts)).format(*parts)


def localised(character: str) -> dict[str, str]:
    """Return the name of an emoji in every language of ``LANGUAGES`` that has one."""
    emoji.config.load_language(list(LANGUAGES))
    entry = emoji.EMOJI_DATA[character]
    return {language: clean(entry[language]) for language in LANGUAGES if entry.get(language)}


def counted_localised(name: str, count: int) -> str:
    """Return a localised name with its number as a sign, which needs no grammar: "3 x Apfel"."""
    return name if count == 1 else f"{count}{_TIMES}{name}"
