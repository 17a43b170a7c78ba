"""What Pillow's modes become: the 8-bit copy, or a refusal that names file and mode."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from akdtune.data.decoding import Seen, glance, open_image, pixels
from akdtune.errors import DataError

RAMP = (np.arange(64 * 64).reshape(64, 64) * 65535 // 4095).astype(np.uint16)
COPY = np.rint(RAMP / 65535 * 255).astype(np.uint8)
"""What an 8-bit copy of the ramp holds."""


def encoded(image: Any, of_format: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, of_format, **more)
    return buffer.getvalue()


def opened(raw: bytes, channels: int | None = None, seen: Seen | None = None) -> Any:
    return pixels(open_image(raw, "here.png", channels, seen))


@pytest.mark.parametrize(
    "raw",
    [
        encoded(Image.fromarray(RAMP)),
        encoded(Image.fromarray(RAMP), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
        encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(RAMP), "JPEG2000"),
        b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes(),
    ],
    ids=["png", "tiff", "tiff, big-endian", "tiff, packed", "jpeg 2000", "pgm"],
)
def test_deep_grey_is_its_8_bit_copy(raw: bytes) -> None:
    assert np.array_equal(opened(raw)[0], COPY)
    assert np.array_equal(opened(raw, 3), np.stack([COPY] * 3))
    assert glance(raw, "here.png")


def test_full_scale_is_that_of_the_bits_in_the_file() -> None:
    pgm = b"P5 64 64 4095\n" + (RAMP >> 4).astype(">u2").tobytes()
    assert np.abs(opened(pgm)[0].astype(int) - COPY).max() <= 1
    twelve = np.zeros((2, 2), dtype=np.uint16)
    twelve[0] = [4095, 2048]
    tiff = Image.fromarray(twelve)
    assert opened(encoded(tiff, "TIFF"))[0].max() == round(4095 / 257)
    packed = tiff_of_12_bits([4095, 2048, 0, 1024])
    assert opened(packed)[0].tolist() == [[255, 128], [0, 64]]


def tiff_of_12_bits(values: list[int]) -> bytes:
    """2x2 pixels of 12 bits, which no writer of Pillow's makes."""
    rows = b""
    for a, b in (values[:2], values[2:]):
        rows += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, len(rows))]
    entries = b"".join(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in tags)
    at = (8 + len(rows)).to_bytes(4, "little")
    return b"II*\0" + at + rows + len(tags).to_bytes(2, "little") + entries + bytes(4)


def test_white_may_be_zero() -> None:
    raw = encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(opened(raw)[0], 255 - COPY)


@pytest.mark.parametrize(
    ("array", "mode"), [(RAMP.astype(np.float32), "F"), (RAMP.astype(np.int32), "I"), (RAMP.astype(np.int16), "I")]
)
def test_what_has_no_full_scale_is_refused(array: Any, mode: str) -> None:
    image = Image.fromarray(array.astype(np.int32) if array.dtype == np.int16 else array)
    raw = encoded(image, "TIFF")
    for ask in (lambda: opened(raw), lambda: opened(raw, 3), lambda: glance(raw, "here.png")):
        with pytest.raises(DataError, match=rf"here.png: image of mode {mode} \(.*\), whose values have no full scale"):
            ask()


def test_colour_of_16_bits_is_pillows_upper_byte() -> None:
    raw = b"P6 64 64 65535\n" + np.stack([RAMP] * 3, axis=2).astype(">u2").tobytes()
    got = opened(raw)
    assert got.shape == (3, 64, 64)
    assert np.abs(got.astype(int) - COPY).max() <= 1


def grey(mode: str) -> Any:
    """The 8-bit ramp as an image of that mode."""
    plain = Image.fromarray(COPY)
    if mode in ("LA", "La", "RGBA", "RGBa"):
        bands = [plain] * (len(mode) - 1)
        whole = Image.merge(mode.upper(), [*bands, Image.new("L", plain.size, 255)])
        return whole if whole.mode == mode else whole.convert(mode)
    return plain.convert(mode) if mode in ("P", "PA") else plain.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "LA", "La", "RGBX", "YCbCr", "CMYK", "HSV", "P", "PA"])
def test_every_other_mode_becomes_the_colours_it_shows(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda _: grey(mode))
    got = opened(b"")
    assert got.shape == (3, 64, 64)
    assert np.abs(got.astype(int) - COPY).max() <= 1


def test_lab_and_inverted_cmyk_show_their_colours() -> None:
    flat = [Image.fromarray(COPY), Image.new("L", (64, 64), 128), Image.new("L", (64, 64), 128)]
    lab = opened(encoded(Image.merge("LAB", flat), "TIFF"))
    assert np.abs(np.diff(lab.astype(int), axis=0)).max() <= 2  # grey, and brighter along the ramp
    assert (np.diff(lab[0].reshape(-1).astype(int)) >= 0).all()
    inverted = [Image.fromarray(255 - COPY)] * 3
    cmyk = opened(encoded(Image.merge("CMYK", [*inverted, Image.new("L", (64, 64), 0)]), "JPEG", quality=100))
    assert np.abs(cmyk.astype(int) - COPY).max() <= 4


def test_one_bit_images_are_black_and_white() -> None:
    raw = encoded(Image.fromarray(COPY).convert("1"))
    assert set(np.unique(opened(raw))) == {0, 255}
    assert opened(raw).shape == (1, 64, 64)


def test_transparency_is_left_out_and_counted() -> None:
    seen = Seen()
    half = Image.merge("RGBA", [Image.fromarray(COPY)] * 3 + [Image.new("L", (64, 64), 128)])
    assert np.array_equal(opened(encoded(half), seen=seen), np.stack([COPY] * 3))
    opened(encoded(grey("RGBA")), seen=seen)  # opaque: nothing is lost
    palette = Image.fromarray(COPY).convert("P")
    opened(encoded(palette, transparency=bytes([0, 255, 7])), seen=seen)  # as bytes: Pillow would warn
    opened(encoded(palette, "GIF", transparency=0), seen=seen)
    assert (seen.images, seen.transparent, seen.turned, seen.deep) == (4, 3, 0, 0)
    assert seen.sentences()[0].startswith("3 of 4 images have transparent pixels: transparency is left out")


def test_exif_orientation_is_left_aside_and_counted() -> None:
    exif = Image.Exif()
    wide = Image.new("RGB", (6, 4), (9, 0, 0))
    seen = Seen()
    for orientation in (1, 6, 3):
        exif[0x0112] = orientation
        for of_format in ("JPEG", "PNG", "WEBP"):
            assert opened(encoded(wide, of_format, exif=exif), seen=seen).shape == (3, 4, 6)
    assert (seen.images, seen.turned) == (9, 6)
    tiff = encoded(wide, "TIFF", tiffinfo={0x0112: 6})
    assert opened(tiff, seen=seen).shape == (3, 6, 4)  # Pillow turns these itself
    for raw in (tiff, encoded(wide, "JPEG", exif=exif)):
        glance(raw, "here.png", seen)
    assert (seen.images, seen.turned) == (12, 7)
    assert seen.sentences() == [
        "7 of 12 images have an EXIF orientation, which is left aside as torchvision's loader does: they stay as "
        "stored (e.g. here.png)"
    ]


def test_nearly_black_deep_images_are_said_to_be() -> None:
    seen = Seen()
    opened(encoded(Image.fromarray(RAMP >> 4)), seen=seen)
    assert seen.sentences() == [
        "1 of 1 images has more than 8 bits a pixel and are scaled to 8; no pixel is above 6.2 % of full scale: "
        "nearly black (e.g. here.png)"
    ]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it is empty"),
        (b"no image", "no image format that Pillow reads"),
        (encoded(Image.fromarray(COPY), "JPEG")[:300], "Truncated File Read"),
        (encoded(Image.fromarray(COPY), "JPEG")[:-30], "image file is truncated"),
        (encoded(Image.fromarray(COPY), "PNG")[:100], "image file is truncated"),
    ],
)
def test_damage_is_one_sentence(raw: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^here.png: not a readable image \({reason}"):
        opened(raw)
    (tmp_path / "x.png").write_bytes(raw)
    with pytest.raises(DataError, match=rf"^there: not a readable image \({reason}"):
        open_image(tmp_path / "x.png", "there", 3)


def test_an_image_that_must_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "x.png")

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(DataError, match=r"^x.png: not a readable image \(Permission denied\)"):
        open_image(tmp_path / "x.png", "x.png", 3)
