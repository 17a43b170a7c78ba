"""What a study says when it has ended."""

from __future__ import annotations

from akdtune.records.study_directory import TrialRecord
from akdtune.running.display import _cell_lines


def test_seeds_without_a_value_stand_beside_the_mean_of_the_others() -> None:
    ends = [(70.0, "done"), (72.0, "done"), (None, "diverged"), (None, "diverged"), (None, "failed"), (None, None)]
    records = [
        TrialRecord({"trial_id": f"t{seed}", "role": "ablation", "arm": "kd", "cell": "x"}, terminal=end, test=value)
        for seed, (value, end) in enumerate(ends)
    ]
    assert _cell_lines(records)[1] == "  x   71.00 ± 1.41 %  (n = 2, 2 diverged, 1 failed)"
