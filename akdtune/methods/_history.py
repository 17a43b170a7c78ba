"""What self-distillation remembers of the previous batch.

Shapes: B batch, R rows that both batches hold.
"""

from __future__ import annotations

from torch import Tensor

from akdtune.signals import Batch


class LastBatch:
    """Outputs of the previous batch, for the images that the present one begins with.

    Not saved in checkpoints: an epoch, the only place to go on from, begins with a batch that repeats nothing.
    """

    def __init__(self) -> None:
        self._previous: tuple[Tensor, ...] = ()
        self._present: tuple[Tensor, ...] = ()

    def recall(self, batch: Batch, *outputs: Tensor) -> tuple[Tensor, ...]:
        """The previous batch's outputs [R, ...] for the leading R rows of these; empty where nothing is repeated.

        Keeps these outputs, without a gradient, as those of the present batch.
        """
        self._present = tuple(output.detach() for output in outputs)
        if not batch.repeated:
            return ()
        assert self._previous, "a batch repeats images, but there was no batch before it"
        return tuple(output[-batch.repeated :] for output in self._previous)

    def advance(self) -> None:
        """Makes the present batch the previous one, after the optimiser step."""
        self._previous, self._present = self._present, ()
