import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigError, DataError
from assets.section import parse
from assets.sources.url_table.captions import clean, join
from assets.sources.url_table.config import PRESETS, Columns, UrlTableConfig
from assets.sources.url_table.reasons import is_transient, reason_of
from assets.sources.url_table.rows import FAULTS, address, key_of, read_rows
from assets.sources.url_table.table import Table

HEADER = "url\tcaption\n"
LINE = "https://a.example/{}.jpg\tcaption {}\n"


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def rows_of(file, mapping=None, languages=("en",)):
    mapping = mapping or Columns()
    return read_rows(Table(file, mapping, languages), mapping, languages, file.with_name("rows.parquet"))


def read(rows):
    return pq.read_table(rows.file).to_pylist()


def config(**split):
    values = {"table": "t.tsv", "role": "train", **split}
    data = {"kind": "url_table", "licence": "none", "splits": {"train": values}}
    return parse(UrlTableConfig, data, "params.yaml: datasets.web.source")


@pytest.mark.parametrize(
    ("text", "mapping", "told"),
    [
        ("", None, "is empty"),
        (HEADER, None, "has no rows of 2 columns"),
        ("link\ttext\na\tb\n", None, "lack 'url', 'caption'"),
        ("A cat\thttps://a.example/1.jpg\n", None, "no header line: name its columns"),
        ("url\tcaption\turl\na\tb\tc\n", None, "2 columns called 'url'"),
        (HEADER + HEADER + LINE, None, "the header stands twice"),
        (HEADER + LINE, Columns(names=("url", "caption")), "leave out columns.names or the preset"),
        (HEADER + "cat.jpg\ta cat\n" * 3, None, "holds no address in its first 3 rows, got 'cat.jpg'"),
        (LINE.replace("\t", ","), PRESETS["cc12m"], "has no rows of 2 columns"),
        ("a\n" * 4, PRESETS["cc3m"], "has no rows of 2 columns"),
    ],
)
def test_faults_of_a_table_are_told_before_anything_is_fetched(tmp_path, text, mapping, told):
    with pytest.raises(DataError) as refusal:
        Table(write(tmp_path / "t.tsv", text), mapping or Columns(), ("en",))
    assert told in str(refusal.value)


def test_a_missing_table_and_one_that_is_no_parquet_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist; download it"):
        Table(tmp_path / "t.tsv", Columns(), ("en",))
    with pytest.raises(DataError, match="cannot be read"):
        Table(write(tmp_path / "t.parquet", "PAR"), Columns(), ("en",))


def test_a_table_that_is_not_utf_8_is_refused_with_the_line(tmp_path):
    lines = HEADER + "".join(LINE.format(i, i) for i in range(5000))
    file = write(tmp_path / "t.tsv", lines + "https://a.example/x.jpg\tcaf\u00e9\n", "latin-1")
    with pytest.raises(DataError, match=r"t\.tsv line 5002 is not UTF-8"):
        rows_of(file)


def test_utf_16_and_an_open_quote_are_refused(tmp_path):
    with pytest.raises(DataError, match="line 1 is not UTF-8"):
        rows_of(write(tmp_path / "t.tsv", HEADER + LINE, "utf-16"))
    with pytest.raises(DataError, match=r"t\.csv line 2 is not in order"):
        rows_of(write(tmp_path / "t.csv", 'url,caption\nhttps://a.example,"open\n'))


def test_csv_tsv_and_parquet_of_the_same_rows_are_one_table(tmp_path):
    cells = [(f"https://a.example/{i}.jpg", f'caption "{i}"') for i in range(30)]
    write(tmp_path / "t.tsv", HEADER + "".join(f"{url}\t{text}\n" for url, text in cells))
    quoted = [(url, text.replace('"', '""')) for url, text in cells]
    write(tmp_path / "t.csv", "caption,url\n" + "".join(f'"{text}",{url}\n' for url, text in quoted))
    columns = {"url": [url for url, _ in cells], "n": [0] * 30, "caption": [text for _, text in cells]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = [rows_of(tmp_path / f"t.{kind}") for kind in ("tsv", "csv", "parquet")]
    assert len({rows.digest for rows in found}) == 1
    assert [row["caption"] for row in read(found[0])] == [text for _, text in cells]


def test_keys_depend_on_address_and_caption_alone(tmp_path):
    lines = [LINE.format(i, i) for i in range(40)]
    before = rows_of(write(tmp_path / "t.tsv", HEADER + "".join(lines)))
    keys = dict(zip(lines, before.pair_ids.tolist(), strict=True))
    shuffled = [*lines, *(LINE.format(i, i) for i in range(40, 60))]
    random.Random(0).shuffle(shuffled)
    after = rows_of(write(tmp_path / "t.tsv", HEADER + "".join(shuffled)))
    new = dict(zip(shuffled, after.pair_ids.tolist(), strict=True))
    assert {line: new[line] for line in lines} == keys
    assert len(set(new.values())) == 60
    # a key that changes would part published data from everything that was joined to it
    assert key_of(keys[lines[0]], "train") == "7ed4e10e68e772e9"
    assert key_of(keys[lines[0]], "test") == "test+7ed4e10e68e772e9"


def test_of_equal_rows_the_first_counts_and_other_captions_are_pairs_of_their_own(tmp_path):
    text = HEADER + "https://a.example\tone\nhttps://a.example\ttwo\nhttps://a.example\tone\nhttps://a.example\t\n"
    rows = rows_of(write(tmp_path / "t.tsv", text))
    assert [FAULTS[fault] for fault in rows.faults] == ["", "", "duplicate_row", "no_caption"]
    assert len(np.unique(rows.url_ids)) == 1


def test_rows_that_cannot_be_fetched_have_a_reason(tmp_path):
    text = HEADER + LINE + "file:///etc/passwd\tsecrets\nftp://a.example\tx\nhttps://\ty\nhttp://[::1\tz\none cell\n\n"
    rows = rows_of(write(tmp_path / "t.tsv", text))
    assert [FAULTS[fault] for fault in rows.faults] == ["", *["not_a_url"] * 4, "malformed_row"]


def test_addresses_are_percent_encoded_once():
    assert address(" https://a.example/a b/\u00e9%20x?q=1&r=[2] ") == "https://a.example/a%20b/%C3%A9%20x?q=1&r=[2]"


def test_further_languages_and_kept_columns_go_into_the_metadata(tmp_path):
    text = "url\tcaption\tcaption_de\tauthor\tlicence\nhttps://a.example\ta cat\teine Katze\tAnn\t\n"
    mapping = Columns(keep=("author", "licence"))
    rows = rows_of(write(tmp_path / "t.tsv", text), mapping, ("en", "de", "fr"))
    (row,) = read(rows)
    assert json.loads(row["metadata"]) == {"author": "Ann", "captions": {"de": "eine Katze"}}
    assert rows.speechless == ("fr",)


def yfcc_line(title, description):
    cells = ["x"] * 25
    cells[1], cells[8], cells[9], cells[16], cells[17] = "7", title, description, "http://farm.example/7.jpg", "CC-BY"
    return "\t".join(cells) + "\n"


def test_the_preset_of_yfcc15m_finds_its_columns_and_makes_one_caption_of_two_texts(tmp_path):
    described = "See+%3Ca+href%3D%22x%22+rel%3Dq%3Emore%3C%2Fa%3E+at+http%3A%2F%2Fa.example%2Fb+1%2B1"
    file = write(tmp_path / "t.tsv", yfcc_line("The+%3Cb%3Ebig%3C%2Fb%3E+cat", described) + yfcc_line("", "www.x.org"))
    rows = rows_of(file, PRESETS["yfcc15m"])
    first, second = read(rows)
    assert first["url"] == "http://farm.example/7.jpg"
    assert first["caption"] == "The big cat. See more at 1+1"
    kept = json.loads(first["metadata"])
    assert (kept["title"], kept["description"]) == ("The big cat", "See more at 1+1")
    assert (kept["photo_id"], kept["license_name"]) == ("7", "CC-BY")
    assert (second["caption"], FAULTS[rows.faults[1]]) == ("", "no_caption")


def test_captions_are_joined_as_sentences():
    assert join("A cat!", "It sleeps") == "A cat! It sleeps"
    assert join("A cat", "A cat") == join("", "A cat") == join("A cat", "") == "A cat"
    assert clean("a+%3Cabbr%3Eb%3C/abbr%3E") == "a <abbr>b</abbr>"


@pytest.mark.parametrize(
    ("status", "error", "reason", "transient"),
    [
        ("failed_to_download", "HTTP Error 404: Not Found", "http_404", False),
        ("failed_to_download", "HTTP Error 410: Gone", "http_410", False),
        ("failed_to_download", "HTTP Error 429: Too Many Requests", "http_429", True),
        ("failed_to_download", "HTTP Error 503: Service Unavailable", "http_503", True),
        (
            "failed_to_download",
            "HTTP Error 302: The HTTP server returned a redirect error that",
            "redirect_loop",
            False,
        ),
        ("failed_to_download", "<urlopen error timed out>", "timeout", True),
        ("failed_to_download", "The read operation timed out", "timeout", True),
        ("failed_to_download", "<urlopen error [Errno -3] Temporary failure in name resolution>", "dns", True),
        ("failed_to_download", "<urlopen error [Errno 104] Connection reset by peer>", "connection", True),
        ("failed_to_download", "IncompleteRead(10 bytes read, 5 more expected)", "truncated", True),
        ("failed_to_download", "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate", "certificate", False),
        ("failed_to_download", "<urlopen error [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred", "connection", True),
        ("failed_to_download", "URL can't contain control characters", "bad_url", False),
        ("failed_to_download", "something new", "other_failure", False),
        ("failed_to_resize", "Image decoding error", "not_an_image", False),
        ("failed_to_resize", "image too small", "too_small", False),
        ("failed_to_resize", "aspect ratio too large", "aspect_ratio", False),
        ("failed_to_resize", "SmallestMaxSize() got an unexpected argument", "resize_failure", False),
        ("failed_to_resize", None, "resize_failure", False),
    ],
)
def test_messages_of_img2dataset_become_reasons(status, error, reason, transient):
    assert reason_of(status, error) == reason
    assert is_transient(reason) is transient


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({"role": "zero_shot", "classes": "c.txt"}, "a table of addresses has no labels"),
        ({"preset": "cc3m", "columns": {}}, "preset names the columns already"),
        ({"preset": "cc3m", "table": "t.parquet"}, "a parquet table names its columns itself"),
        ({"columns": {"names": ["url", "text"]}}, "names lacks caption"),
        ({"columns": {"names": ["url", "caption", "url"]}}, "names has a name twice"),
        ({"columns": {"keep": ["sha256"]}}, "KEY.json has sha256 anyway"),
        ({"table": "t.json"}, "String should match pattern"),
        ({"preset": "laion"}, "'cc3m', 'cc12m' or 'yfcc15m'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(split, told):
    with pytest.raises(ConfigError) as refusal:
        config(**split)
    assert told in str(refusal.value)


def test_png_takes_a_compression_instead_of_a_quality():
    data = {"kind": "url_table", "licence": "none", "splits": {"train": {"table": "t.tsv", "role": "train"}}}
    with pytest.raises(ConfigError, match="0 to 9"):
        parse(UrlTableConfig, {**data, "picture": {"encode_format": "png"}}, "here")
    parse(UrlTableConfig, {**data, "picture": {"encode_format": "png", "encode_quality": 6}}, "here")
