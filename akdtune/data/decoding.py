"""Encoded images to 8-bit pixels of one size.

Every image of a folder, a Parquet file or a stream goes through `open_image`. What it makes of an image:

- 8-bit grey and 1-bit images stay grey where the set has one channel; all else becomes RGB as in torchvision's own
  loader: EXIF orientation (but that of TIFF, which Pillow follows), colour profiles and transparency are left aside,
  of several frames the first is taken.
- Grey images of more bits become their 8-bit copy: 0..full scale is scaled to 0..255 and rounded. Full scale is that
  of the bits in the file (16; 12 in some TIFF). (Of 16-bit colour Pillow itself takes the upper byte.)
- What has no full scale (floating point, 32-bit or signed whole numbers) is refused.

Shapes: C channels, H, W height and width.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from akdtune.data.store import Images
from akdtune.errors import DataError, printable

GREY = frozenset({"1", "L"})
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_ORIENTATION, _PHOTOMETRIC, _BITS = 0x0112, 262, 258
"""Tags of EXIF and TIFF."""
_WITH_ORIENTATION = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})


class Square(NamedTuple):
    """What images of any size become: the shorter side resized to `shorter` pixels, then the middle `size` of both."""

    size: int
    shorter: int


class Encoded(Protocol):
    """Encoded images by row, in whatever they are kept; goes to other processes by pickle."""

    def __len__(self) -> int: ...

    def at(self, row: int) -> tuple[bytes | Path, str]:
        """The bytes of one image or its file, and what to call it in a message."""
        ...


@dataclass
class Seen:
    """What is worth saying about the images of a set, counted as they are opened.

    Attributes:
        images: how many were opened.
        turned: those with an EXIF orientation that is left aside.
        transparent: those with transparent pixels.
        deep: those of more than 8 bits a channel that were scaled here.
        brightest: the largest share of full scale that a pixel of these has.
        examples: one image of each kind.
    """

    images: int = 0
    turned: int = 0
    transparent: int = 0
    deep: int = 0
    brightest: float = 0.0
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, kind: str, where: str) -> None:
        """Counts one image of a kind."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.examples.setdefault(kind, where)

    def sentences(self, folders: Iterable[Path] = ()) -> list[str]:
        """One sentence for each kind that occurred, without the set's folders: a copy of it may lie elsewhere."""
        said = {
            "turned": "an EXIF orientation, which is left aside as torchvision's loader does: they stay as stored",
            "transparent": "transparent pixels: transparency is left out as torchvision's loader does, and the colour "
            "beneath shows",
            "deep": f"more than 8 bits a pixel and are scaled to 8{self._dark()}",
        }
        counts = {kind: int(getattr(self, kind)) for kind in said}
        return [
            f"{counts[kind]:,} of {self.images:,} images {'have' if counts[kind] > 1 else 'has'} {words} "
            f"(e.g. {printable(_below(folders, self.examples[kind]))})"
            for kind, words in said.items()
            if counts[kind]
        ]

    def _dark(self) -> str:
        share = self.brightest
        return f"; no pixel is above {100 * share:.2g} % of full scale: nearly black" if 0 < share <= 1 / 8 else ""


def _below(folders: Iterable[Path], where: str) -> str:
    """The place of an image without the folder it lies in."""
    known = (f"{folder}/" for folder in folders)
    return next((where.removeprefix(folder) for folder in known if where.startswith(folder)), where)


def open_image(encoded: bytes | Path, where: str, channels: int | None, seen: Seen | None = None) -> Any:
    """A decoded 8-bit image of Pillow's; grey stays one channel unless three are wanted, all else becomes RGB.

    Args:
        encoded: its bytes, or its file.
        where: what to call it in a message.
        channels: 3 where grey becomes colour, too.
        seen: counts what is worth saying.

    Raises:
        DataError: naming the image that cannot be read, or whose mode has no 8-bit copy.
    """
    with _opened(encoded, where) as image:
        full_scale = _full_scale(image, where)
        image.load()
        if seen is not None:
            _look(image, where, seen)
        if full_scale is not None:
            image = _scaled(image, full_scale, where, seen)
        image.info.pop("transparency", None)  # it would make Pillow warn, and changes no pixel here
        if image.mode in _PREMULTIPLIED:
            image = image.convert(_PREMULTIPLIED[image.mode])
        return image.convert("L" if image.mode in GREY and channels != 3 else "RGB")


def glance(encoded: bytes | Path, where: str, seen: Seen | None = None) -> bool:
    """Whether an image is grey, from its header alone; what the header says is counted.

    Raises:
        DataError: as `open_image`.
    """
    with _opened(encoded, where) as image:
        deep = _full_scale(image, where) is not None
        if seen is not None:
            seen.images += 1
            # A PNG would be decoded for it; a TIFF is turned by Pillow itself.
            if image.format not in ("PNG", "TIFF") and _turned(image):
                seen.note("turned", where)
            if deep:
                seen.note("deep", where)
        return deep or image.mode in GREY


@contextlib.contextmanager
def _opened(encoded: bytes | Path, where: str) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError  # late: only image files need it

    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged bytes meet Pillow's decoders with errors of every class
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, UnidentifiedImageError):
            empty = len(encoded) == 0 if isinstance(encoded, bytes) else encoded.stat().st_size == 0
            reason = "it is empty" if empty else "no image format that Pillow reads"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise DataError(f"{where}: not a readable image ({reason})") from error


def _full_scale(image: Any, where: str) -> int | None:
    """The largest value that a pixel of a deep grey image can have; None for 8 bits a channel.

    Raises:
        DataError: for a mode whose values have no such bound.
    """
    mode, of_format = image.mode, image.format
    if mode not in ("I", "F") and not mode.startswith("I;16"):
        return None
    if mode != "F" and of_format in ("PNG", "PPM", "JPEG2000"):
        return 65535  # Pillow scales other depths of these to 16 bits
    if mode.startswith("I;16") and of_format == "TIFF":
        return int(2 ** image.tag_v2.get(_BITS, (16,))[0] - 1)
    kind = "floating point" if mode == "F" else "signed or 32-bit whole numbers"
    raise DataError(
        f"{where}: image of mode {mode} ({kind}), whose values have no full scale to make an 8-bit copy by; save it "
        "with 8 or 16 bits a pixel (unsigned)"
    )


def _scaled(image: Any, full_scale: int, where: str, seen: Seen | None) -> Any:
    """The 8-bit copy of a deep grey image."""
    from PIL import Image  # late: only image files need it

    values_HW = np.asarray(image).astype(np.int64).clip(0, full_scale)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow leaves to us
        values_HW = full_scale - values_HW
    if seen is not None:
        seen.note("deep", where)
        seen.brightest = max(seen.brightest, float(values_HW.max(initial=0)) / full_scale)
    return Image.fromarray(((values_HW * 255 + full_scale // 2) // full_scale).astype(np.uint8))


def _look(image: Any, where: str, seen: Seen) -> None:
    """Counts what is left aside of a decoded image."""
    seen.images += 1
    if _turned(image):
        seen.note("turned", where)
    has_alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", *_PREMULTIPLIED)
    if has_alpha and not image.mode.startswith("I"):
        alpha = image.convert(_PREMULTIPLIED.get(image.mode, "RGBA")).getchannel("A")
        if alpha.getextrema()[0] < 255:
            seen.note("transparent", where)


def _turned(image: Any) -> bool:
    """Whether a viewer that follows EXIF would turn or mirror the image."""
    if not _WITH_ORIENTATION & image.info.keys():  # most have none, and looking closer takes a while
        return False
    with contextlib.suppress(Exception):  # damaged EXIF data of an image that is sound
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    return False


def squared(image: Any, square: Square) -> Any:
    """An image of Pillow's resized (bilinear, with antialiasing) and cut to the square in its middle."""
    from PIL import Image  # late: only image files need it

    width, height = image.size
    shorter = min(width, height)
    if shorter != square.shorter:
        width, height = width * square.shorter // shorter, height * square.shorter // shorter
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if (width, height) == (square.size, square.size):
        return image
    left, top = round((width - square.size) / 2), round((height - square.size) / 2)
    return image.crop((left, top, left + square.size, top + square.size))


def pixels(image: Any) -> Images:
    """An image of Pillow's as uint8 [C, H, W]."""
    array = np.array(image, dtype=np.uint8)  # a copy: torch warns about Pillow's own, which is read-only
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def described(shape: tuple[int, ...]) -> str:
    """A shape [C, H, W] in words."""
    return f"{shape[2]}x{shape[1]} pixels in {shape[0]} channel{'s' if shape[0] > 1 else ''}"
