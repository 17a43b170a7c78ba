"""Random numbers that depend on what they are for alone: derived seeds, and a counter-based generator by sample.

Shapes: N samples.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts and on nothing else (not on what was drawn before)."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


STREAMS = 2
"""Which numbers a trial's views and methods draw: 2 since each has a stream of its own, 1 while all drew from one.

Noted in a study's lock and beside what was trained, as trials that draw have other numbers under either."""


Words: TypeAlias = npt.NDArray[np.uint64]


class Stream(IntEnum):
    """What a draw is for; two purposes never share random numbers."""

    ORDER = 1
    CROP = 2
    LIMIT = 3
    VALIDATION = 4
    LABEL_NOISE = 5
    DIGITS_POOL = 6
    IMBALANCE = 7
    FRACTION = 8
    RESIZED_CROP = 9
    RANDAUGMENT = 10
    CUTOUT = 11
    PARTNER = 12
    MIX = 13
    FILL = 14
    ROTATION = 15
    AUTOAUGMENT = 16
    PARTITION = 17
    NODE_POOL = 40
    NODE_LABELS = 41
    NODE_CLASS = 42
    NODE_FEATURES = 43
    EDGE = 44
    ANNOTATION = 45
    ARITHMETIC = 30


class Draw(NamedTuple):
    """What random numbers belong to besides the sample.

    Attributes:
        order_seed: of batches and augmentation.
        epoch: counted from 1.
        view: 0 for the images that are trained on, 1 for their strong version.
    """

    order_seed: int
    epoch: int
    view: int = 0

    def words(self, sample_ids_N: npt.NDArray[np.int64], stream: Stream, index: int = 0) -> Words:
        """Four random 32-bit words for each sample id, [4, N]; `index` (below 256) tells draws of one stream apart."""
        return random_words(self.order_seed, self.epoch, sample_ids_N, stream, self.view * 256 + index)


def philox4x32(counter_4N: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10: four random 32-bit words for each 128-bit counter, both [4, N] with 32-bit values in uint64.

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; checked with the known answers there.
    """
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    word0, word1, word2, word3 = counter_4N.astype(np.uint64)
    key0, key1 = key
    for _ in range(10):
        product0 = word0 * np.uint64(0xD2511F53)
        product1 = word2 * np.uint64(0xCD9E8D57)
        word0, word1, word2, word3 = (
            (product1 >> shift) ^ word1 ^ np.uint64(key0),
            product1 & mask,
            (product0 >> shift) ^ word3 ^ np.uint64(key1),
            product0 & mask,
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([word0, word1, word2, word3])


def random_words(seed: int, epoch: int, sample_ids_N: npt.NDArray[np.int64], stream: Stream, index: int = 0) -> Words:
    """Four random 32-bit words for each sample id, [4, N] as uint64; `seed` counts modulo 2**64.

    `index` (below 2**24) gives further words of the same stream.
    """
    ids = sample_ids_N.astype(np.uint64)
    counter = np.empty((4, len(ids)), dtype=np.uint64)
    counter[0], counter[1] = ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32)
    counter[2], counter[3] = epoch, stream | index << 8
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))


def random_order(seed: int, epoch: int, sample_ids_N: npt.NDArray[np.int64], stream: Stream) -> npt.NDArray[np.int64]:
    """A permutation of positions 0..N-1; the relative order of two samples does not depend on the others."""
    words = random_words(seed, epoch, sample_ids_N, stream)
    order: npt.NDArray[np.int64] = np.lexsort((sample_ids_N, words[0] << np.uint64(32) | words[1])).astype(np.int64)
    return order


def below(words_N: Words, limit: npt.NDArray[np.int64] | int) -> npt.NDArray[np.int64]:
    """Whole numbers 0..limit-1 from 32-bit words, equally likely up to limit / 2**32."""
    return (words_N * np.asarray(limit).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def unit(words_N: Words) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) from 32-bit words."""
    return words_N.astype(np.float64) / 2**32
