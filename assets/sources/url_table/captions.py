"""Captions of YFCC15M: one text out of a photograph's title and description.

YFCC100M stores both as form-encoded HTML. The SLIP study decodes them, drops the tags of links and bold type and every
web address, and draws title or description anew each time a picture is seen. A pair has one caption here, the same in
every epoch, so the two cleaned texts are joined; KEY.json keeps each of them for whoever wants to draw.
"""

import re
from urllib.parse import unquote_plus

_TAG = re.compile(r"</?(?:a|b)(?:\s[^>]*)?>", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_ENDS_SENTENCE = (".", "!", "?")


def clean(text: str) -> str:
    """Return a title or description as its author sees it, without tags, web addresses and runs of blanks.

    Args:
        text: The column of YFCC100M, form-encoded.
    """
    return " ".join(_ADDRESS.sub("", _TAG.sub("", unquote_plus(text))).split())


def join(title: str, description: str) -> str:
    """Return the caption: title and description as sentences, or the one there is; equal ones count once.

    Args:
        title: Cleaned.
        description: Cleaned.
    """
    if not title or not description or title == description:
        return title or description
    return f"{title}{'' if title.endswith(_ENDS_SENTENCE) else '.'} {description}"
