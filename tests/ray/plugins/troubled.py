"""A plugin for tests: a method whose trials misbehave on request, at epoch 2."""

import errno
import os
import signal
from pathlib import Path

import torch
from pydantic import Field

from akdtune.methods.kd import KD
from akdtune.registry import register


@register("troubled")
class Troubled(KD):
    """KD that raises, dies or becomes infinite in its second epoch."""

    class Settings(KD.Settings):
        """What happens."""

        trouble: str = Field(
            "none",
            description="none, error, infinite, or a file: die once, leaving it behind; disk:FILE: fail to read it",
        )

    def terms(self, student, target, batch):  # type: ignore[no-untyped-def]
        terms = super().terms(student, target, batch)
        trouble = self.settings.trouble  # type: ignore[attr-defined]
        if batch.epoch == 2 and trouble == "error":
            raise RuntimeError("a user's bug")
        if batch.epoch == 2 and trouble == "infinite":
            return {"troubled": terms["kd"] * torch.inf}
        if batch.epoch == 2 and trouble.startswith("disk:") and not (file := Path(trouble[5:])).exists():
            file.touch()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        if batch.epoch == 2 and trouble.startswith("/") and not Path(trouble).exists():
            Path(trouble).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"troubled": terms["kd"]}

    def weights(self, epoch):  # type: ignore[no-untyped-def]
        return {"troubled": super().weights(epoch)["kd"]}
