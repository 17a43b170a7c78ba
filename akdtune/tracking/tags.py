"""Tags runs on the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from akdtune.tracking.child import ANSWER_S, Answer
from akdtune.tracking.mode import reason


def tag_runs(paths: Mapping[str, str], tag: str) -> Iterator[Answer]:
    """Adds a tag to runs on the server.

    Args:
        paths: id: entity/project/id.
        tag: as a text.
    """
    import wandb  # late: loaded where tracking is on

    api = wandb.Api(timeout=int(ANSWER_S))
    for run_id, path in paths.items():
        try:
            remote: Any = api.run(path)
            remote.tags = sorted({*remote.tags, tag})
            remote.update()
            yield {"id": run_id, "error": None}
        except Exception as error:  # the SDK raises many kinds; the next sync tries again
            yield {"id": run_id, "error": reason(error)}
