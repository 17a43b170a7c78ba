"""What each column of the tables of trials and epochs means, with its unit: as its measure has declared it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from akdtune.columns import Column, declarations
from akdtune.errors import AkdtuneError, unknown_name
from akdtune.records.files import ROW_COLUMNS
from akdtune.records.tables import LATER_TRIAL_COLUMNS, WHOLE_TRIAL_COLUMNS
from akdtune.reports.notebook import html_table


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


def _declared(schema: pa.Schema) -> dict[str, Column]:
    """What the file says of its columns; of files of earlier versions, which say nothing, what every row holds."""
    always = declarations(schema.names, [*ROW_COLUMNS, *WHOLE_TRIAL_COLUMNS, *LATER_TRIAL_COLUMNS])
    return {
        field.name: Column.of_metadata(field.name, field.metadata)
        or always.get(field.name)
        or Column(field.name, "", "")
        for field in schema
    }


def _holders(name: str, tables: Mapping[str, pa.Schema]) -> tuple[str, ...]:
    return tuple(table for table, schema in tables.items() if name in schema.names)


class Columns(Mapping[str, Described]):
    """The columns of a study's tables by name; prints and shows itself as a list."""

    def __init__(self, tables: Mapping[str, pa.Schema]) -> None:
        fields = {field.name: field for schema in tables.values() for field in schema}
        said: dict[str, Column] = {}
        for schema in tables.values():
            said |= {name: column for name, column in _declared(schema).items() if column.sentence or name not in said}
        self._columns = {
            name: Described(name, str(field.type), said[name].unit, said[name].sentence, _holders(name, tables))
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
        rows = (
            (column.name, column.unit, column.kind, ", ".join(column.tables), column.sentence)
            for column in self.values()
        )
        return html_table(("column", "unit", "type", "in", "holds"), rows)
