"""What students of a study are judged by: one number by its name, in percent, of which the larger is always the better.

What is better when it is smaller is declared as a share or as its negative, so that nobody who compares, stops or
chooses has to know which metric it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from akdtune.errors import AkdtuneError

_BEST = "_best"
_TAKEN = ("macs", "time", "loss")
"""Names that mean something else where a metric is named."""


@dataclass(frozen=True)
class Metric:
    """A metric by its name, which its columns are called after.

    Attributes:
        name: an identifier; `val_<name>` and `test_<name>` are its columns.

    Raises:
        AkdtuneError: for a name that is none, or means something else already.
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in _TAKEN or self.name.endswith(_BEST):
            raise AkdtuneError(
                f"metric '{self.name}': must be an identifier that does not end with {_BEST} and is none of "
                f"{', '.join(_TAKEN)}"
            )

    @property
    def validation(self) -> str:
        """The column of validation items, in every epoch."""
        return f"val_{self.name}"

    @property
    def test(self) -> str:
        """The column of the test set, read once at a trial's end."""
        return f"test_{self.name}"

    @property
    def best(self) -> str:
        """The column of a trial's highest epoch."""
        return f"{self.validation}{_BEST}"

    @property
    def words(self) -> str:
        """The name as a sentence has it."""
        return self.name.replace("_", " ")


ACCURACY = Metric("accuracy")
"""Of every study of images, and of all studies from before there were tasks."""


def of_trials(columns: Iterable[str]) -> Metric:
    """What a study is judged by whose `trials.parquet` has these columns: each study has one besides accuracy at most.

    Args:
        columns: names, or a row.
    """
    named = (name for name in columns if name.startswith("val_") and name.endswith(_BEST))
    others = (Metric(name[len("val_") : -len(_BEST)]) for name in named if name != ACCURACY.best)
    return next(others, ACCURACY)


def in_percent(column: str) -> bool:
    """Whether a column holds percentages of judged items, so that differences of it are points."""
    if column.endswith(_BEST):
        return False
    return column.endswith("_accuracy") or column.startswith(("val_", "test_"))


def judged_on(column: str) -> str:
    """The split that a column is of, as people call it in short: `val`, `test`, or the column's own name."""
    head, _, rest = column.partition("_")
    return head if rest and head in ("val", "test") else column.removesuffix("_accuracy")
