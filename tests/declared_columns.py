"""Which of the columns of every study speak of the teacher, by what is declared."""

from __future__ import annotations

from akdtune.columns import declaration
from akdtune.records.files import METRICS
from akdtune.registry import lookup
from akdtune.training.evaluation import held_out_columns

HELD_OUT_COLUMNS = held_out_columns(lookup("tasks", "image"))

JUDGED = {name for name in METRICS if (column := declaration(name, HELD_OUT_COLUMNS)) and column.teacher == "judged"}
"""Say how teacher and views do on held-out images: null where the teacher has trained on them."""
