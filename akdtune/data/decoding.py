"""Encoded images to 8-bit pixels of one size, and a check of labels.

Shapes: C channels, H, W height and width.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from akdtune.data.store import Images, Labels
from akdtune.errors import DataError


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


def open_image(encoded: bytes | Path, where: str, channels: int | None) -> Any:
    """A decoded image of Pillow's; grey stays one channel unless three are wanted, all else becomes RGB.

    Raises:
        DataError: naming the image that cannot be read.
    """
    from PIL import Image  # late: only image files need it

    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            return image.convert("L" if image.mode in ("1", "L") and channels != 3 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{where}: not a readable image ({reason})") from error


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
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def described(shape: tuple[int, ...]) -> str:
    """A shape [C, H, W] in words."""
    return f"{shape[2]}x{shape[1]} pixels in {shape[0]} channel{'s' if shape[0] > 1 else ''}"


def check_labels(labels: Labels, num_classes: int | None, where: str) -> None:
    """Refuses labels below 0, or above the last class where the number of classes is known."""
    wrong = (labels < 0) | (labels >= num_classes) if num_classes else labels < 0
    if wrong.any():
        allowed = f"0..{num_classes - 1}" if num_classes else "0 and above"
        raise DataError(f"{where}: label {labels[wrong][0]} is out of range (allowed: {allowed})")
