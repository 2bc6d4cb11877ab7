"""Why a picture could not be had: img2dataset's messages sorted into reasons, and which of them may go away."""

import re

MALFORMED, NOT_A_URL, NO_CAPTION, DUPLICATE = "malformed_row", "not_a_url", "no_caption", "duplicate_row"
"""Reasons of rows that are never tried."""
LOST = "not_reported"
"""img2dataset has finished the part without a word about the address."""

_RULES: tuple[tuple[str, str], ...] = (
    # the message of a redirect error names a status as well, so it comes before these
    (r"redirect error|infinite loop", "redirect_loop"),
    (r"HTTP Error (\d{3})", "http_{}"),
    (r"X-Robots-Tag", "disallowed"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate", "certificate"),
    (r"timed out|timeout", "timeout"),
    (r"Name or service not known|name resolution|No address associated|nodename nor servname|getaddrinfo", "dns"),
    (r"IncompleteRead", "truncated"),
    (
        r"Connection (?:refused|reset|aborted)|Remote end closed|No route to host|Network is unreachable|Broken pipe"
        r"|EOF occurred|unexpected eof|UNEXPECTED_EOF",
        "connection",
    ),
    (
        r"unknown url type|no host given|URL can't contain|nonnumeric port|label .*(?:empty|too long)|codec can't",
        "bad_url",
    ),
    (r"image too small", "too_small"),
    (r"aspect ratio too large", "aspect_ratio"),
    (r"image area too large", "too_large"),
    (r"Image decoding error", "not_an_image"),
)
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), reason) for pattern, reason in _RULES)
_TRANSIENT = {"timeout", "dns", "connection", "truncated", "http_408", "http_425", "http_429", LOST}

HINTS = {
    "dns": "is the machine online, with a resolver that can take the load?",
    "connection": "is the machine online, and is a firewall or proxy in between?",
    "timeout": "is the machine online? With many timeouts, fewer machine.download.threads may help.",
    "certificate": "are the certificates of this machine out of date?",
    "resize_failure": 'does "make img2dataset" finish with the pinned versions?',
    "http_429": "servers find it too fast: lower machine.download.threads.",
}
"""Reason -> what to ask or do when it prevails, as a whole sentence."""


def reason_of(status: str, error: str | None) -> str:
    """Return the reason that a report of img2dataset amounts to.

    Args:
        status: ``failed_to_download`` or ``failed_to_resize``.
        error: Its message.
    """
    for pattern, reason in _PATTERNS:
        if found := pattern.search(error or ""):
            return reason.format(*found.groups())
    return "resize_failure" if status == "failed_to_resize" else "other_failure"


def is_transient(reason: str) -> bool:
    """Say whether another try some time later may succeed."""
    return reason in _TRANSIENT or reason.startswith("http_5")
