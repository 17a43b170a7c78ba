"""Why trials do not count in an analysis, in the words of all analyses: each stands behind a number of trials."""

from __future__ import annotations

from collections.abc import Mapping

WITHOUT_PREDICTIONS = "without predictions"
DAMAGED = "with damaged files (`akdtune verify` names them)"
OTHER_IMAGES = "judged by other images than the teacher"


def left_out_text(left_out: Mapping[str, int]) -> str:
    """`left out: 12 pruned, 3 without predictions`; empty where every trial counts."""
    parts = [f"{count} {why}" for why, count in left_out.items() if count]
    return f"left out: {', '.join(parts)}" if parts else ""
