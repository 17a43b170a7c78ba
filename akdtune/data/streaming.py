"""Sets too large for memory: encoded images, decoded batch by batch through torch's DataLoader.

A batch is a request that says everything: rows, sample ids, seed and epoch. Workers keep no state, so that the same
requests give the same pixels, bit for bit, whatever the number of workers.

Shapes: B batch, C channels, S side of the images.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from akdtune.data.decoding import Encoded, Square, described, open_image, pixels, squared
from akdtune.data.image_ops import augmented
from akdtune.data.store import Labels, channel_statistics
from akdtune.errors import DataError
from akdtune.randomness import Draw
from akdtune.settings.data import Augmentation

MOST_WORKERS = 8
SAMPLED = 1024
"""Images that channel means are taken from, and files that are read for the content hash, of a set that streams."""


@dataclass(frozen=True)
class Streamed:
    """A data set that stays encoded.

    Attributes:
        train, test: encoded images by row.
        train_labels, test_labels: int64 [N].
        num_classes: K; labels are 0..K-1.
        mean, std: per channel, on the scale 0..1.
        content_hash: of names, sizes and (some or all) contents, never of times.
        channels: C.
        square: what each image becomes where it is not augmented.
        exact: whether images of another size are an error, not resized.
        classes: what the labels 0..K-1 stand for, where files name it.
        notes: sentences on what was left out, or is odd.
    """

    train: Encoded
    train_labels: Labels
    test: Encoded
    test_labels: Labels
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str
    channels: int
    square: Square
    exact: bool = False
    classes: tuple[str | int, ...] | None = None
    notes: tuple[str, ...] = ()


class Look(NamedTuple):
    """One version of the images of a batch: plain without an augmentation, else augmented as `draw` says."""

    augmentation: Augmentation | None
    draw: Draw


class Request(NamedTuple):
    """One batch: which images, and which versions of them."""

    rows_B: npt.NDArray[np.int64]
    sample_ids_B: npt.NDArray[np.int64]
    looks: tuple[Look, ...]


class EncodedPixels(Dataset[Any]):
    """Encoded images of one size and number of channels, decoded on request."""

    def __init__(self, encoded: Encoded, channels: int, square: Square, exact: bool = False) -> None:
        self.encoded, self.channels, self.square, self.exact = encoded, channels, square, exact

    def __getitem__(self, request: Request) -> list[Tensor] | DataError:
        """8-bit images [B, C, S, S] of each look; an error is returned, because a raised one would lose its words."""
        try:
            images = [self._looks(request, index) for index in range(len(request.rows_B))]
        except DataError as error:
            return error
        except OSError as error:
            return DataError(str(error))
        return [torch.cat(parts) for parts in zip(*images, strict=True)]

    def plain(self, row: int) -> Tensor:
        """One image as it is evaluated, uint8 [C, S, S]."""
        return torch.from_numpy(pixels(squared(self._open(row), self.square)))

    def _open(self, row: int) -> Any:
        encoded, where = self.encoded.at(row)
        image = open_image(encoded, where, self.channels)
        size = self.square.size
        shape = (len(image.getbands()), image.size[1], image.size[0])
        if shape[0] != self.channels or (self.exact and shape[1:] != (size, size)):
            expected = described((self.channels, size, size))
            raise DataError(f"{where}: image of {described(shape)}, the first one has {expected}")
        return image

    def _looks(self, request: Request, index: int) -> list[Tensor]:
        image = self._open(int(request.rows_B[index]))
        ids, square = request.sample_ids_B[index : index + 1], self.square
        looks = []
        for augmentation, draw in request.looks:
            cuts_itself = augmentation is not None and augmentation.random_resized_crop is not None
            source_1CHW = torch.from_numpy(pixels(image if cuts_itself else squared(image, square)))[None]
            if augmentation is not None:
                source_1CHW = augmented(source_1CHW, ids, draw, augmentation, square.size)
            looks.append(source_1CHW)
        return looks


class StreamedImages:
    """Images on disk as 8-bit batches on a device.

    Args:
        source: encoded images.
        device: where batches go.
        workers: processes that decode; 0: this one.
    """

    def __init__(self, source: EncodedPixels, device: torch.device, workers: int) -> None:
        self.source, self.device, self.workers = source, device, workers

    def plain(self, rows_B: Tensor) -> Tensor:
        """These images as they are evaluated, uint8 [B, C, S, S], decoded in this process."""
        return torch.stack([self.source.plain(row) for row in rows_B.tolist()]).to(self.device)

    @property
    def stored(self) -> int:
        """None of them lies on the device."""
        return 0

    def held(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """These images alone, and their places among themselves."""
        return self.plain(rows_B), torch.arange(len(rows_B), device=rows_B.device)

    def batches(self, requests: Sequence[Request]) -> Generator[list[Tensor], None, None]:
        """The looks of each request in turn; workers end with the iterator, however it ends.

        Raises:
            DataError: naming the image that cannot be read, or when a worker dies.
        """
        workers = min(self.workers, len(requests))
        loader: DataLoader[Any] = DataLoader(
            self.source,
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=process_context() if workers else None,
            generator=torch.Generator(),  # torch's global generator stays as it is
        )
        running: Any = iter(loader)
        try:
            for _ in requests:
                batch = _next(running)
                if isinstance(batch, DataError):
                    raise batch
                yield [part.to(self.device, non_blocking=True) for part in batch]
        finally:
            if workers:
                running._shutdown_workers()  # not left to the garbage collector


def _next(running: Any) -> Any:
    try:
        return next(running)
    except (RuntimeError, OSError, EOFError) as error:  # the latter two where it died in the middle of a batch
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error) or type(error).__name__
        raise DataError(f"a process that decodes images died ({reason}); data.workers=0 does without them") from error


def worker_count(setting: int | None, device: torch.device) -> int:
    """The set number; null: none on the CPU, which computes itself, else one for each thread of torch, at most 8."""
    if setting is not None:
        return setting
    return 0 if device.type == "cpu" else min(MOST_WORKERS, torch.get_num_threads())


def sampled_statistics(source: EncodedPixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations of at most 1,024 images, evenly spread over the set."""
    rows = spread(len(source.encoded))
    return channel_statistics(np.stack([source.plain(row).numpy() for row in rows]))


def spread(count: int) -> list[int]:
    """At most 1,024 of the numbers 0..count-1, evenly spread."""
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(np.int64)).tolist()
    return chosen


def too_large(stream: str, memory_mib: int, decoded_bytes: int) -> bool:
    """Whether a set is streamed, from the settings and its size when decoded."""
    return stream == "always" or (stream == "auto" and decoded_bytes > memory_mib * 2**20)


def _as_is(batch: Any) -> Any:
    return batch


def process_context() -> Any:
    """Processes from a clean server where there is one: a fork of a process with threads or a GPU may hang."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, not once a worker; what cannot be imported is left out.
    context.set_forkserver_preload([__name__, "torchvision.transforms.v2.functional"])
    return context
