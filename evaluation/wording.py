"""Numbers and metric names as people read them."""

import re

from markupsafe import Markup, escape

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def metric_words(metric: str) -> str:
    """Turn ``retrieval.in_domain.text_to_image_r1`` into ``Retrieval, in-domain: text to image R@1``."""
    *path, name = metric.split(".")
    name = re.sub(r"(^|_)r(\d+)$", r"\1R@\2", name)
    name = re.sub(r"(^|_)top(\d+)$", r"\1top-\2", name)
    text = plain(f"{', '.join(path)}: {name}")
    return text[:1].upper() + text[1:]


def curve_words(curve: str) -> str:
    """Turn ``holdout/image_to_text_r1`` into ``Holdout: image to text R@1``."""
    return metric_words(curve.replace("/", "."))


def is_recall(name: str) -> bool:
    """Whether a metric or a curve is a share of queries, by its name's ``_rN``."""
    return re.search(r"_r\d+$", name) is not None


def plain(name: str) -> str:
    """Write a name from the code with spaces, and hyphens where English wants them."""
    text = name.replace("_", " ")
    for word in ("zero shot", "in domain", "held out"):
        text = text.replace(word, word.replace(" ", "-"))
    return text


def breakable(label: str) -> Markup:
    """Let a long label of words and underscores go on in the next row after each underscore."""
    return Markup(escape(label).replace("_", Markup("_<wbr>")))


def percent(share: float) -> str:
    """Write a share as percent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Write a difference of shares in percentage points with its sign, e.g. ``+1.3``; a zero has none."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")


def quantity(number: float) -> str:
    """Write a number with three digits and a metric prefix, e.g. ``8.61 M``."""
    for size, prefix in _PREFIXES:
        if abs(number) >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Write a time in the two largest units that matter, e.g. ``3 min 20 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
