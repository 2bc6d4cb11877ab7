"""Settings of the url_table source."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from assets.section import Section
from assets.sources.described.config import DescribedConfig, DescribedSplit

_OURS = {"captions", "url", "original_width", "original_height", "sha256", "title", "description"}


class Columns(Section):
    """Which column of a table is what."""

    names: tuple[str, ...] | None = None
    """Names of all columns, for a table without a header line. Left out, the first line names them."""
    url: str = "url"
    """Name of the column with the address of the picture."""
    caption: str = "caption"
    """Name of the column with the caption. Those of further languages are called ``<caption>_<language>``."""
    description: str | None = None
    """Name of a column with a longer text. Captions are then made of both by the rule for YFCC15M in
    docs/data/url_table.md."""
    keep: tuple[str, ...] = ()
    """Names of further columns whose cells go into KEY.json, such as licence and author."""

    @model_validator(mode="after")
    def _columns_are_among_the_names(self) -> "Columns":
        if taken := sorted(_OURS & set(self.keep)):
            raise PydanticCustomError("keep", "KEY.json has {taken} anyway", {"taken": ", ".join(taken)})
        if self.names is not None:
            wanted = (self.url, self.caption, self.description, *self.keep)
            if lacking := [name for name in wanted if name and name not in self.names]:
                raise PydanticCustomError("names", "names lacks {lacking}", {"lacking": ", ".join(lacking)})
            if len(set(self.names)) < len(self.names):
                raise PydanticCustomError("names", "names has a name twice")
        return self


_YFCC100M = (
    *("line_number", "photo_id", "photo_hash", "user_id", "user_name", "date_taken", "date_uploaded", "device"),
    *("title", "description", "user_tags", "machine_tags", "longitude", "latitude", "accuracy", "page_url"),
    *(
        "download_url",
        "license_name",
        "license_url",
        "server",
        "farm",
        "secret",
        "secret_original",
        "extension",
        "marker",
    ),
)
PRESETS = {
    "cc3m": Columns(names=("caption", "url")),
    "cc12m": Columns(names=("url", "caption")),
    "yfcc15m": Columns(
        names=_YFCC100M,
        url="download_url",
        caption="title",
        description="description",
        keep=("photo_id", "user_name", "page_url", "license_name", "license_url"),
    ),
}
"""The tables as they are published; none has a header line."""


class DownloadOptions(Section):
    """What becomes of a picture on its way here. Another value here means another download from the start."""

    image_size: int = Field(default=256, ge=16, le=4096)
    """Pixels that ``resize_mode`` scales to."""
    resize_mode: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"] = "keep_ratio"
    """keep_ratio scales the shorter side to ``image_size``, so nothing is lost before training crops. border pads to a
    square with white, center_crop throws the edges away, keep_ratio_largest scales the longer side."""
    resize_only_if_bigger: bool = True
    """Leave small pictures as they are instead of scaling them up."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Format the pictures are stored in."""
    encode_quality: int = Field(default=95, ge=0, le=100)
    """Quality of jpg and webp; for png the compression, 0 to 9."""
    min_image_size: int = Field(default=0, ge=0)
    """Pictures whose shorter side is below this many pixels are left out; 0 takes all."""
    max_aspect_ratio: float | None = Field(default=None, ge=1)
    """Pictures whose longer side is more than this many times the shorter one are left out."""
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """Pictures whose server sends one of these in ``X-Robots-Tag`` are left out: their owners do not want them used.
    An empty list takes them all the same."""

    @model_validator(mode="after")
    def _quality_suits_the_format(self) -> "DownloadOptions":
        if self.encode_format == "png" and self.encode_quality > 9:
            raise PydanticCustomError("encode_quality", "encode_quality of png is its compression, 0 to 9")
        return self


class DownloadPolicy(Section):
    """How hard to try. Values here change which pictures are got, but never a picture that is there already."""

    timeout: int = Field(default=10, ge=1, le=600)
    """Seconds to wait for a server each time it is silent."""
    retries: int = Field(default=0, ge=0, le=10)
    """Further tries right after a failed one, whatever its reason."""
    retry_passes: int = Field(default=1, ge=0, le=10)
    """Passes over the failed addresses once all others are through; only those whose reason may go away are tried again
    (docs/data/url_table.md). Raise it to give a finished download another pass."""
    max_failed: float = Field(default=0.6, gt=0, le=1)
    """Give up when more than this share of the addresses fails."""
    min_attempts: int = Field(default=2000, ge=1)
    """Addresses to try before ``max_failed`` is looked at; at the end it holds for a table of any length."""


class UrlTableSplit(DescribedSplit):
    """One split and the table of its addresses and captions."""

    table: str = Field(pattern=r"(?i)\.(csv|tsv|parquet)$")
    """The file; its suffix says what it is: .csv (commas, quotes), .tsv (tabs, no quotes) or .parquet."""
    preset: Literal["cc3m", "cc12m", "yfcc15m"] | None = None
    """The columns of a published table, instead of ``columns``."""
    columns: Columns | None = None
    """Which column is what; ``url`` and ``caption`` in a table with a header, unless you say otherwise."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "UrlTableSplit":
        if self.role == "zero_shot" or self.classes is not None:
            raise PydanticCustomError(
                "role", "a table of addresses has no labels: role must be train or retrieval, and classes left out"
            )
        if self.preset is not None and self.columns is not None:
            raise PydanticCustomError("columns", "preset names the columns already; leave one of the two out")
        if Path(self.table).suffix.lower() == ".parquet" and self.mapping.names is not None:
            raise PydanticCustomError("columns", "a parquet table names its columns itself: leave out preset and names")
        return self

    @property
    def mapping(self) -> Columns:
        """Which column is what, wherever that was said."""
        return PRESETS[self.preset] if self.preset else self.columns or Columns()


class UrlTableConfig(DescribedConfig[UrlTableSplit]):
    """Tables of addresses and captions. Further languages are read from the columns ``<caption>_<language>``."""

    kind: Literal["url_table"]
    """Chooses this source."""
    title: str = "Image-text pairs from the web"
    """One line for the data card: what the pictures and captions are."""
    picture: DownloadOptions = DownloadOptions()
    """What becomes of a picture on its way here."""
    download: DownloadPolicy = DownloadPolicy()
    """How hard to try."""
