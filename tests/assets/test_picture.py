import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from assets.picture import MAX_PIXELS, Picture, PictureError, TooLargeError


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def smooth(width: int = 64, height: int = 48) -> Image.Image:
    """A picture that JPEG keeps well, different in every corner."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([across, down, across * down], axis=-1) * 200 + 20
    return Image.fromarray(pixels.astype(np.uint8))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, **chunks: bytes) -> bytes:
    """Write a PNG by hand: depth and colour kind are those of its header, ``rows`` begin with a filter byte each."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    others = b"".join(chunk(name.encode(), body) for name, body in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + others + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_orientation_that_a_camera_noted_is_applied_as_pillow_applies_it(orientation, kind, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(), kind, exif=exif, **options)
    picture = Picture(data)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (picture.width, picture.height) == wanted.size
    assert np.array_equal(picture.pixels(), np.asarray(wanted))
    if kind == "JPEG":
        half = picture.pixels(shrink=2)
        assert half.shape[:2] == (wanted.height // 2, wanted.width // 2)
        assert np.abs(half - np.asarray(wanted.reduce(2)).astype(int)).max() < 12


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_of_a_jpeg_is_read_without_pillow(order, monkeypatch):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112], exif[0x8769] = "Camera", 6, {0x9003: "2020:01:01 00:00:00"}
    data = encoded(smooth(), "JPEG", exif=exif)
    assert (b"MM\0*" if order == ">" else b"II*\0") in data
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert (Picture(data).width, Picture(data).height) == (48, 64)


def test_exif_data_without_an_orientation_leave_it_to_pillow():
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    for data in (encoded(smooth(), "JPEG", exif=exif), encoded(smooth(), "JPEG", exif=exif, xmp=xmp)):
        picture = Picture(data)
        assert (picture.width, picture.height) == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size


@pytest.mark.parametrize("text", [False, True])
def test_an_orientation_behind_the_pixels_of_a_png_counts(text):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(smooth(), "PNG")
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    name = b"eXIf"
    if text:
        name, body = b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<a tiff:Orientation="6"/>'
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    late = data[:-12] + chunk + data[-12:]
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(late)))
    assert (Picture(late).width, Picture(late).height) == wanted.size == (48, 64)


def test_unreadable_exif_data_leave_a_picture_as_it_is():
    data = encoded(smooth(), "JPEG", exif=b"Exif\0\0 no tiff at all")
    assert np.array_equal(Picture(data).pixels(), Picture(encoded(smooth(), "JPEG")).pixels())


def test_a_jpeg_has_the_pixels_that_pillow_gives_it():
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        data = encoded(smooth(61, 47), "JPEG", quality=90, **options)
        assert np.array_equal(Picture(data).pixels(), np.asarray(Image.open(io.BytesIO(data))))
    grey = Picture(encoded(smooth().convert("L"), "JPEG", quality=95))
    assert np.abs(grey.pixels() - np.asarray(smooth().convert("L"))[..., None].astype(int)).max() < 8
    assert np.array_equal(grey.pixels()[..., :1], grey.pixels("GRAY"))


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_and_ycck_jpegs_have_the_colours_that_pillow_gives_them(transform):
    data = bytearray(encoded(smooth().convert("CMYK"), "JPEG", quality=95))
    marker = data.index(b"Adobe")
    data[marker + 11] = transform  # how the printing colours are stored
    picture = Picture(bytes(data))
    with Image.open(io.BytesIO(bytes(data))) as opened:
        assert opened.mode == "CMYK"
        assert np.abs(picture.pixels() - np.asarray(opened.convert("RGB")).astype(int)).max() <= 3
    assert picture.pixels("GRAY").shape == (48, 64, 1)


def test_jpegs_that_the_fast_decoder_does_not_take_are_read_all_the_same():
    data = bytearray(encoded(smooth(), "JPEG", subsampling=2))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = 0x31  # brightness sampled three times as often as colour, which no encoder does
    assert Picture(bytes(data)).pixels().shape == (48, 64, 3)


def test_16_bits_become_8_and_are_not_cut_off():
    ramp = np.arange(0, 1 << 16, 257, dtype=">u2").reshape(16, 16)
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = png(16, 16, 16, 0, b"".join(b"\0" + row.tobytes() for row in ramp))
    assert np.array_equal(Picture(grey).pixels("GRAY")[..., 0], eight)
    assert np.array_equal(Picture(grey).pixels(), np.repeat(eight[..., None], 3, axis=2))
    colour = np.stack([ramp, ramp.T, ramp[::-1]], axis=-1)
    coloured = png(16, 16, 16, 2, b"".join(b"\0" + row.tobytes() for row in colour))
    assert np.array_equal(Picture(coloured).pixels(), np.stack([eight, eight.T, eight[::-1]], axis=-1))


def test_transparency_lies_on_white():
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[2:6, 2:6] = (200, 40, 0, 255)
    pixels[0, 0] = (200, 40, 0, 127)
    image = Image.fromarray(pixels)
    wanted = np.full((8, 8, 3), 255, dtype=np.uint8)
    wanted[2:6, 2:6] = (200, 40, 0)
    for kind in ("PNG", "WEBP"):
        got = Picture(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))).pixels()
        assert np.array_equal(got[1:], wanted[1:])
        assert np.abs(got[0, 0] - np.array([228, 148, 128])).max() <= 1  # halfway to white
    palette = Picture(encoded(image.quantize(4), "PNG")).pixels()
    assert np.abs(palette[1:] - wanted[1:].astype(int)).max() <= 2
    keyed = png(2, 1, 8, 2, bytes([0, 9, 9, 9, 7, 7, 7]), tRNS=struct.pack(">HHH", 9, 9, 9))
    assert Picture(keyed).pixels().tolist() == [[[255, 255, 255], [7, 7, 7]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_a_film_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(Picture(data).pixels() - np.array([255, 0, 0])).max() <= 2


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    rows = bytes(1251) * 10_000
    with pytest.raises(TooLargeError, match=f"10000x10000 pixels are too many, wanted at most {MAX_PIXELS}") as caught:
        Picture(png(10_000, 10_000, 1, 0, rows))
    assert (caught.value.width, caught.value.height) == (10_000, 10_000)
    with pytest.raises(TooLargeError, match="100000x100000"):  # beyond what Pillow itself opens
        Picture(png(100_000, 100_000, 1, 0, b""))
    small = bytearray(encoded(smooth(), "JPEG"))
    frame = small.index(b"\xff\xc0")
    small[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 50_000)
    with pytest.raises(TooLargeError, match="50000x60000"):
        Picture(bytes(small))


def test_other_files_are_no_pictures_whatever_pillow_could_open():
    for data in (b"", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"):
        with pytest.raises(PictureError):
            Picture(data).pixels()
    with pytest.raises(PictureError):
        Picture(encoded(smooth(), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damage_of_any_kind_is_one_kind_of_error(kind):
    whole = encoded(smooth(), kind)
    random = np.random.default_rng(0)
    for number in range(300):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 6)).tolist():
            data[place] = int(random.integers(256))
        data = data[: len(data) if number % 3 else int(random.integers(len(data)))]
        try:
            pixels = Picture(bytes(data)).pixels(shrink=2)
        except PictureError as error:
            assert str(error)
        else:
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3


def test_a_truncated_jpeg_is_damaged_and_trailing_bytes_are_not():
    whole = encoded(smooth(), "JPEG")
    for data in (whole[:-2], whole[: len(whole) // 2]):
        with pytest.raises(PictureError):
            Picture(data).pixels()
    assert np.array_equal(Picture(whole + b"trailer").pixels(), Picture(whole).pixels())


@pytest.mark.parametrize(("shrink", "divisor"), [(0, 1), (1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (99, 8)])
def test_a_jpeg_is_shrunk_by_a_power_of_two_at_most_as_much_as_asked(shrink, divisor):
    picture = Picture(encoded(smooth(203, 101), "JPEG"))
    assert picture.pixels(shrink=shrink).shape == (-(-101 // divisor), -(-203 // divisor), 3)
