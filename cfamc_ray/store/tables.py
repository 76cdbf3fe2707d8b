"""Tables of a study, as CSV, Markdown and LaTeX."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cfamc_ray.config.types import Norm, is_number
from cfamc_ray.formatting import IN_LINF, MISSING, Norms, format_quantity, format_setting, short_names
from cfamc_ray.metrics import Unit, find_metric
from cfamc_ray.store.csv_files import csv_text

L2 = "evaluation.head.l2"
"""Key of the L2 strength, by which the operating points of a trial differ."""
LONG = 24
"""Letters of a cell that may be broken into lines."""
Statistic = Literal[
    "mean", "low", "high", "searched", "optimism", "selection", "again_mean", "again_low", "again_high", "expected"
]
"""What a table says of a metric: mean and 95 % interval over fresh seeds, the value that the search saw, by how much
that was better than the mean (winner's curse), by how much it was better than the search's own measurement repeated
with fresh seeds (the part of the optimism that selection explains), mean and interval of that measurement, and what a
model expects."""


class Column(NamedTuple):
    """A column of a table and how its cells are written."""

    name: str
    """Key of the rows, and heading of CSV files."""
    label: str = ""
    """Heading for people; empty: the name."""
    unit: Unit | None = None
    """Unit of its numbers; None: whole numbers with all digits, others with three."""
    setting: bool = False
    """Whether the name is the dotted key of a trial, and the cells are its values."""
    norm: Norm | None = "linf"
    """Norm of radii; None if it differs from row to row."""

    def cell(self, row: Mapping[str, Any]) -> str:
        """The cell of a row as a person reads it; a dash where it is missing."""
        return self.show(row[self.name]) if self.name in row else MISSING

    def show(self, value: object) -> str:
        """A cell as a person reads it: null is a value of a key, and missing in any other column."""
        if value == "" or (value is None and (self.name == L2 or not self.setting)):
            return MISSING
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str):
            return value
        if self.setting:
            return format_setting(self.name, value, {self.name: self.norm})
        if self.unit is None and isinstance(value, int):
            return str(value)
        return format_quantity(self.unit or "number", float(value))  # type: ignore[arg-type]


def metric_column(metric: str, statistic: Statistic | None = None) -> Column:
    """The column of a metric, or of a statistic of it: ``clean_accuracy_mean``."""
    known = find_metric(metric)
    if statistic is None:
        return Column(metric, known.label, known.unit)
    return Column(f"{metric}_{statistic}", f"{known.label} {statistic}", known.unit)


def setting_column(key: str, norms: Norms = IN_LINF) -> Column:
    """The column of a key of a trial, searched or the L2 strength of operating points; with the norms of radii."""
    return Column(key, "L2" if key == L2 else "", setting=True, norm=norms.get(key, "linf"))


class Table(NamedTuple):
    """Rows with the same columns, of which a row may lack some; None where a value is missing, or null of a key."""

    name: str
    """Of its files, without an ending."""
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    def without(self, *names: str) -> "Table":
        """The same table without some of its columns."""
        return self._replace(columns=[column for column in self.columns if column.name not in names])

    def csv(self) -> str:
        """With every digit."""
        return csv_text([{name: row.get(name) for name in self.names} for row in self.rows], columns=self.names)

    def shown(self) -> list[list[str]]:
        """The cells as a person reads them."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]

    def headings(self) -> list[str]:
        """The columns as a person reads them."""
        return short_names([column.label or column.name for column in self.columns])

    def numbers(self) -> list[list[float | None]]:
        """What the cells are sorted by; None where they are no finite numbers, and are sorted by what is shown."""
        return [[_finite(row.get(name)) for name in self.names] for row in self.rows]

    def kinds(self) -> list[str]:
        """Of each column: number, text, or long text."""
        words = [[row[name] for row in self.rows if isinstance(row.get(name), str)] for name in self.names]
        return ["number" if not some else "long text" if max(map(len, some)) > LONG else "text" for some in words]

    def markdown(self) -> str:
        """For a README or a review."""
        return self._formatted("github")

    def latex(self) -> str:
        """For a paper, with booktabs."""
        return self._formatted("latex_booktabs")

    def _formatted(self, style: str) -> str:
        from tabulate import tabulate  # noqa: PLC0415 (a machine that only trains need not have it)

        return tabulate(self.shown(), self.headings(), tablefmt=style, disable_numparse=True) + "\n"


def _finite(value: object) -> float | None:
    return value if is_number(value) and math.isfinite(value) else None
