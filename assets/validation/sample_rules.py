"""Rules about one sample at a time, each a pure function over columns: which rows break it, and by what value.

A sample is rejected for the first rule it breaks, in the order of ``RULES``.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.validation.config import ValidationConfig
from assets.validation.language import CaptionLanguages
from assets.validation.scan import NO_BYTES, TOO_LARGE, UNDECODABLE

COLUMNS = ("caption", "caption_words", "width", "height")
_SHOWN_CHARS = 80
_EXTENSIONS = "jpe?g|jfif|png|gif|webp|bmp|tiff?|svg|heic|avif|psd|raw|cr2|nef|pdf|mp4|mov"
_FILE_NAME = (
    rf"(?i)^\s*(?:[^\s]+(?:\s[^\s]+){{0,3}}\.(?:{_EXTENSIONS})"
    r"|(?:https?://|www\.)\S+"
    r"|(?:[a-z]:\\|/)\S+[/\\]\S+"
    r"|(?:img|image|dsc|dscn|dscf|pic|picture|photo|scan|screenshot|untitled|pxl|vid)[-_ ]?[-_0-9]{2,})\s*$"
)
_BOILERPLATE = (
    # what cameras write into every picture
    r"(?i)^\s*(?:(?:(?:olympus|konica|minolta|fujifilm|pentax|sanyo|samsung|casio|kodak|sony|ricoh|nikon|canon) )+"
    r"(?:dsc|digital (?:still )?camera|camera pictures)|exif[ _-]jpeg(?:[ _-]picture)?"
    # what web pages and templates leave where a description should be
    r"|this image has an empty alt attribute.*|lorem ipsum.*|(?:no|missing|insert|enter|add) (?:an? |the )?"
    r"(?:description|caption|alt(?:ernative)? text|title)(?: (?:available|provided|here|yet))?"
    r"|image may contain.*|may be an? (?:image|illustration|cartoon|meme|doodle).*"
    r"|(?:photo|image) credit:?\s.{0,40}|(?:copyright )?(?:\(c\)|copyright|\x{a9}) ?[0-9]{4}.{0,40}"
    # dates, numbers, punctuation: no letter at all
    r"|[^\pL]*)[.!\s]*$"
)


@dataclass(frozen=True, slots=True)
class Samples:
    """The columns that the rules look at, all of one length.

    Attributes:
        caption: Strings.
        caption_words: Words in the caption, int32 [rows].
        width: Pixels, int32 [rows].
        height: Pixels, int32 [rows].
        contrast: What ``assets.validation.scan.contrast`` measured, float32 [rows].
        unsafe: What ``assets.validation.safety`` measured, float32 [rows]; None where no rule asks.
        languages: What ``assets.validation.language`` found; None where no rule asks.
    """

    caption: pa.Array
    caption_words: np.ndarray
    width: np.ndarray
    height: np.ndarray
    contrast: np.ndarray
    unsafe: np.ndarray | None = None
    languages: CaptionLanguages | None = None


@dataclass(frozen=True, slots=True)
class PassResults:
    """What the passes beside the scan found of every row; None where no rule asks.

    Attributes:
        unsafe: Probability that a picture is unsafe, float32 [rows], nan where it cannot be decoded.
        languages: The captions' languages.
    """

    unsafe: np.ndarray | None = None
    languages: CaptionLanguages | None = None

    def part(self, start: int, stop: int) -> "PassResults":
        """Return the rows from ``start`` to ``stop``."""
        return PassResults(
            None if self.unsafe is None else self.unsafe[start:stop],
            None if self.languages is None else self.languages.part(start, stop),
        )


NO_PASSES = PassResults()


@dataclass(frozen=True, slots=True)
class Hits:
    """What one rule found.

    Attributes:
        rows: Numbers of the rows that break it, ascending, int64.
        values: What was met there, as text, one per row.
    """

    rows: np.ndarray
    values: list[str]


def samples_of(batch: pa.RecordBatch, contrast: np.ndarray, passes: PassResults = NO_PASSES) -> Samples:
    """Take the columns of an index batch, with what the scan and the passes beside it measured of these rows."""
    width, height, words = (batch.column(name).to_numpy() for name in ("width", "height", "caption_words"))
    return Samples(batch.column("caption"), words, width, height, contrast, passes.unsafe, passes.languages)


def _sizes(samples: Samples, mask: np.ndarray) -> Hits:
    rows = np.flatnonzero(mask)
    return Hits(rows, [f"{w}x{h}" for w, h in zip(samples.width[rows], samples.height[rows], strict=True)])


def _captions(samples: Samples, mask: np.ndarray) -> Hits:
    rows = np.flatnonzero(mask)
    return Hits(rows, [text[:_SHOWN_CHARS] for text in samples.caption.take(pa.array(rows)).to_pylist()])


def _numbers(numbers: np.ndarray, mask: np.ndarray, form: str) -> Hits:
    rows = np.flatnonzero(mask)
    return Hits(rows, [format(float(number), form) for number in numbers[rows]])


def _nothing() -> Hits:
    return Hits(np.empty(0, dtype=np.int64), [])


def _matching(samples: Samples, pattern: str) -> Hits:
    return _captions(samples, pc.match_substring_regex(samples.caption, pattern).to_numpy(zero_copy_only=False))


def no_image(samples: Samples, config: ValidationConfig) -> Hits:
    """Find samples whose picture is missing or has no bytes."""
    del config
    rows = np.flatnonzero(samples.contrast == NO_BYTES)
    return Hits(rows, ["0 bytes"] * len(rows))


def undecodable(samples: Samples, config: ValidationConfig) -> Hits:
    """Find pictures that could not be decoded, when the index was made or now."""
    del config
    return _sizes(samples, (samples.contrast == UNDECODABLE) | (samples.width < 1) | (samples.height < 1))


def blank(samples: Samples, config: ValidationConfig) -> Hits:
    """Find pictures of one flat colour."""
    measured = samples.contrast >= 0
    return _numbers(samples.contrast, measured & (samples.contrast < config.image.min_contrast), ".1f")


def too_small(samples: Samples, config: ValidationConfig) -> Hits:
    """Find pictures with a side below the limit."""
    return _sizes(samples, np.minimum(samples.width, samples.height) < config.image.min_side)


def too_large(samples: Samples, config: ValidationConfig) -> Hits:
    """Find pictures with a side above the limit, or with more pixels than ``assets.picture`` decodes."""
    longer = np.maximum(samples.width, samples.height)
    return _sizes(samples, (samples.contrast == TOO_LARGE) | (longer > config.image.max_side))


def aspect_ratio(samples: Samples, config: ValidationConfig) -> Hits:
    """Find pictures that are too long or too tall."""
    long = np.maximum(samples.width, samples.height).astype(np.float64)
    short = np.maximum(np.minimum(samples.width, samples.height), 1)
    return _sizes(samples, long / short > config.image.max_aspect_ratio)


def unsafe(samples: Samples, config: ValidationConfig) -> Hits:
    """Find pictures that score above the limit."""
    if config.safety is None or samples.unsafe is None:
        return _nothing()
    return _numbers(samples.unsafe, samples.unsafe > config.safety.max_score, ".3f")


def empty_caption(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions without a word."""
    del config
    return _captions(samples, samples.caption_words < 1)


def short_caption(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions with too few words."""
    return _captions(samples, samples.caption_words < config.caption.min_words)


def long_caption(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions with too many words; the value is their number."""
    return _numbers(samples.caption_words, samples.caption_words > config.caption.max_words, ".0f")


def file_name(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions that are a file name, a path or a web address."""
    if config.caption.file_names:
        return _nothing()
    return _matching(samples, _FILE_NAME)


def boilerplate(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions that a camera, a web page or a template wrote, and those without a letter."""
    return _nothing() if config.caption.boilerplate else _matching(samples, _BOILERPLATE)


def language(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions in a language that is not declared."""
    if config.caption.language is None or samples.languages is None:
        return _nothing()
    return Hits(*samples.languages.foreign(config.caption.language.min_probability))


def generic(samples: Samples, config: ValidationConfig) -> Hits:
    """Find captions that say nothing about the picture, by the configured list."""
    if not config.caption.generic:
        return _nothing()
    listed = normalise(pa.array(config.caption.generic, pa.string()))
    return _captions(samples, pc.is_in(normalise(samples.caption), listed).to_numpy(zero_copy_only=False))


def normalise(captions: pa.Array) -> pa.Array:
    """Return captions in lower case, with single spaces in place of punctuation."""
    spaced = pc.replace_substring_regex(pc.utf8_lower(captions), r"[^\pL\pN\pM]+", " ")
    return pc.utf8_trim_whitespace(spaced)


RULES: dict[str, Callable[[Samples, ValidationConfig], Hits]] = {
    "no_image": no_image,
    "undecodable": undecodable,
    "blank": blank,
    "too_small": too_small,
    "too_large": too_large,
    "aspect_ratio": aspect_ratio,
    "unsafe": unsafe,
    "empty_caption": empty_caption,
    "file_name": file_name,
    "boilerplate": boilerplate,
    "generic": generic,
    "short_caption": short_caption,
    "long_caption": long_caption,
    "language": language,
}
