"""What each column of the tables of trials and epochs means, with its unit.

To be replaced by what measures declare of their own columns: `MEANINGS` and `meaning` are all that `Results` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from akdtune.errors import AkdtuneError, unknown_name
from akdtune.reports.notebook import html_table

_MEANINGS = """
trial_id | | name of the trial: its settings, and its seed after the last hyphen
cell_id | | hash of all settings that change a number; trials of several seeds share it
arm | | views and base method, e.g. angular/kd
role | | search, probe, pilot, confirm, ablation or control
seed | | seed of the trial
number | | place of the trial in the plan, counted from 0
cell | | name of the cell in a confirmation or an ablation
reused_from | | study directory that the finished trial was taken from
status | | planned, running, interrupted, done, pruned, diverged or failed
stop_reason | | why it ended before its last epoch
attempts | | how often the trial was begun
attempt | | counted from 1, which attempt of the trial computed the epoch
epoch | | number of the student's epoch, counted from 1
epochs | | student epochs that are finished
lr | | learning rate of the student
train_accuracy | percent | mean over the epoch of the student's accuracy on training batches
val_accuracy | percent | accuracy of the student on the validation images
val_accuracy_best | percent | highest val_accuracy of all epochs
test_accuracy | percent | accuracy of the student on the test set, read once, at a trial's end
ensemble_accuracy | percent | accuracy of the mean probability of teacher and views
teacher_accuracy | percent | accuracy of the teacher on held-out images
target_accuracy | percent | accuracy of the target that the student imitates
target_entropy | nats | mean entropy of the target that the student imitates
diversity_sq_prob | | squared-error diversity: variance over teacher and views, summed over class probabilities
diversity_sq_logit | | squared-error diversity: variance over teacher and views, summed over logits
diversity_sq_feature | | squared-error diversity: variance over teacher and views, summed over the pooled feature
diversity_ce | | cross-entropy diversity: variance of p(label) over twice its squared maximum
diversity_pair_prob | | diversity_sq_prob times M / (M - 1) for M members, which frees it of their number
diversity_pair_logit | | diversity_sq_logit times M / (M - 1) for M members
diversity_pair_feature | | diversity_sq_feature times M / (M - 1) for M members
inter_cosine | | mean cosine between the features of two views
offset_cosine | | mean cosine between two views' offsets from the teacher, in features
inter_cosine_prob | | mean cosine between the class probabilities of two views
offset_cosine_prob | | mean cosine between two views' offsets from the teacher, in class probabilities
gate_open_train | share | training images whose diversity gate of the features is open
gate_open_eval | share | held-out images whose diversity gate of the features is open
gate_open_train_logit | share | training images whose diversity gate of the logits is open
gate_open_eval_logit | share | held-out images whose diversity gate of the logits is open
margin | | margin of the features, learned or set: views at similarity >= 1 - margin are inside
agreement | percent | held-out images that student and teacher classify alike
js_divergence | nats | mean Jensen-Shannon divergence of the student's and the teacher's predictions
score | percent | mean val_accuracy of the last epochs, which rungs decide by
wall_time_s | s | time of the epoch, evaluation included; of a trial: their sum
warmup_time_s | s | time of the views' warm-up; of a trial: the sum
images_per_s | images/s | training images per second, evaluation not counted; of a trial: the mean
peak_memory_mib | MiB | highest memory so far, on the GPU or else of the process
teacher_cache_hit_rate | share | rows of the teacher's cache that were found, of those asked for in the epoch
teacher_cache_fill_rate | share | rows of the teacher's cache that are stored
student_macs | multiply-adds | of the student for one image
train_time_s | s | sum of wall_time_s, where the search weighs time
loss.ce | nats | mean over the epoch of the student's cross-entropy with the label, unweighted
loss.views.* | | mean over the epoch of this penalty of the views, unweighted
loss.* | | mean over the epoch of this term of a method, unweighted
param.* | | the searched setting of this key path
"""
MEANINGS: dict[str, tuple[str, str]] = {
    name: (unit, sentence)
    for name, unit, sentence in ([part.strip() for part in line.split("|")] for line in _MEANINGS.strip().splitlines())
}
"""Unit (empty for a number without one, and for text) and sentence by name; a `*` at the end stands for any rest."""


def meaning(field: pa.Field) -> tuple[str, str]:
    """Unit and sentence of a column; empty where nobody has said what it holds."""
    if field.name in MEANINGS:
        return MEANINGS[field.name]
    stems = [name for name in MEANINGS if name.endswith("*") and field.name.startswith(name[:-1])]
    return MEANINGS[max(stems, key=len)] if stems else ("", "")


@dataclass(frozen=True, repr=False)
class Described:
    """One column.

    Attributes:
        kind: its Arrow type.
        unit: empty for a number without a unit, and for text.
        sentence: what it holds; empty where nobody has said.
        tables: `trials`, `epochs`, or both.
    """

    name: str
    kind: str
    unit: str
    sentence: str
    tables: tuple[str, ...]

    def __str__(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.name}{unit} ({self.kind}, in {' and '.join(self.tables)}): {self.sentence or 'not described'}"

    __repr__ = __str__


def _holders(name: str, tables: Mapping[str, pa.Schema]) -> tuple[str, ...]:
    return tuple(table for table, schema in tables.items() if name in schema.names)


class Columns(Mapping[str, Described]):
    """The columns of a study's tables by name; prints and shows itself as a list."""

    def __init__(self, tables: Mapping[str, pa.Schema]) -> None:
        fields = {field.name: field for schema in tables.values() for field in schema}
        self._columns = {
            name: Described(name, str(field.type), *meaning(field), _holders(name, tables))
            for name, field in fields.items()
        }

    def __getitem__(self, name: str) -> Described:
        if name not in self._columns:
            raise AkdtuneError(unknown_name("column", name, self._columns))
        return self._columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.values()))

    def _repr_html_(self) -> str:
        rows = ((one.name, one.unit, one.kind, ", ".join(one.tables), one.sentence) for one in self.values())
        return html_table(("column", "unit", "type", "in", "holds"), rows)
