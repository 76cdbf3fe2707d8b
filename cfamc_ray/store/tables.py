"""Tables of a study, as CSV, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from cfamc_ray.formatting import format_setting, format_value, short_names
from cfamc_ray.store.records import csv_text

LONG = 24
"""Letters of a cell that may be broken into lines."""


class Table(NamedTuple):
    """Rows with the same columns; None where a value is missing."""

    name: str
    """Of its files, without an ending."""
    title: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    def csv(self) -> str:
        """With every digit."""
        return csv_text([{key: row.get(key) for key in self.columns} for row in self.rows], columns=self.columns)

    def shown(self) -> list[list[str]]:
        """The cells as a person reads them."""
        return [[show_cell(column, row.get(column)) for column in self.columns] for row in self.rows]

    def headings(self) -> list[str]:
        """The columns as a person reads them."""
        return short_names(self.columns)

    def kinds(self) -> list[str]:
        """Of each column: number, text, or long text."""
        words = [[row[name] for row in self.rows if isinstance(row.get(name), str)] for name in self.columns]
        return ["number" if not some else "long text" if max(map(len, some)) > LONG else "text" for some in words]

    def markdown(self) -> str:
        """For a README or a review."""
        return tabulate(self.shown(), self.headings(), tablefmt="github", disable_numparse=True) + "\n"

    def latex(self) -> str:
        """For a paper, with booktabs."""
        return tabulate(self.shown(), self.headings(), tablefmt="latex_booktabs", disable_numparse=True) + "\n"


def show_cell(column: str, value: object) -> str:
    """A cell as a person reads it; a dash where it is missing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    metric = column.removesuffix("_mean").removesuffix("_low").removesuffix("_high")
    metric = metric.removesuffix("_searched").removesuffix("_optimism").removesuffix("_again")
    if metric.endswith(("accuracy", "probability", "pgd20", "autoattack", "share", "efficiency")):
        return format_value("accuracy", float(value))  # type: ignore[arg-type]
    if "." in column:
        return format_setting(column, value)
    return str(value) if isinstance(value, int) and abs(value) < 1000 else format_value(column, float(value))  # type: ignore[arg-type]
