"""The system part of a scaling study in its folder: what was measured of each cell, and the table of all cells.

The files of the cells hold raw measurements, with where and when they were made; all tables are derived from them.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, ValidationError

from cfamc_ray.config.scaling import WORKERS, Cell, ScalingConfig
from cfamc_ray.formatting import format_count, format_point
from cfamc_ray.host.files import write_text
from cfamc_ray.store.content import DamagedFile, content_of, damage_of, json_object
from cfamc_ray.store.layout import CELLS
from cfamc_ray.store.tables import Column, Table, metric_column, setting_column

PHASES = ("crops", "forward", "loss", "backward", "optimizer", "perturbation")
COLUMNS = (
    metric_column("crop_passes_per_second"),
    Column("lowest", unit="count"),
    Column("highest", unit="count"),
    Column("seconds_per_update"),
    *(Column(f"{name}_share", unit="fraction") for name in (*PHASES, "other", "communication")),
    Column("weak_efficiency", unit="fraction"),
    Column("strong_efficiency", unit="fraction"),
    metric_column("peak_memory_bytes"),
    Column("tflop_per_second", "TFLOP/s"),
    Column("peak_tflop_per_second", "peak TFLOP/s"),  # of the cell with the fastest product: others may be disturbed
    Column("mfu", "MFU", "fraction"),
    *map(Column, ("precision", "threads", "device")),
)
"""Of system.csv, after what the cell is."""


_Positive = Annotated[int | float, Field(gt=0)]
_Repeats = Annotated[list[PositiveFloat], Field(min_length=1)]


class Seconds(BaseModel):
    """Wall time of each repeat of the steps of an epoch, by what was run."""

    steps: _Repeats
    """The steps as they are."""
    unsynchronised: _Repeats | None = None
    """Without the all-reduce of the gradients; None with one worker."""
    alone: _Repeats | None = None
    """One worker with its share of the images, without the others; None with one worker."""


class Phases(BaseModel, extra="allow"):
    """Seconds of an epoch by phase; a phase that did not occur is left out."""

    all: PositiveFloat
    __pydantic_extra__: dict[str, float]


class Measurements(BaseModel):
    """What `measure_cell` measures. Amounts are those of an epoch unless they say otherwise."""

    seconds: Seconds
    phases: Phases
    sums: list[tuple[PositiveFloat, PositiveFloat]]
    """Bytes on each worker and seconds of an all-reduce, for several sizes; empty with one worker."""
    peak_memory_bytes: _Positive
    """Of one worker."""
    product_flops_per_second: _Positive
    """Of a large matrix product in one worker, in the precision of the steps."""
    float32_flops_per_second: _Positive
    updates: _Positive
    crop_passes: _Positive
    """Of all workers together."""
    flops: _Positive
    activations: NonNegativeFloat
    kept: NonNegativeFloat
    """Activations that are kept at once for the backward pass."""
    parameters: _Positive
    number_bytes: _Positive
    """Size of a weight."""
    precision: str
    device: str
    threads: int


class Failure(NamedTuple):
    """Why a cell has no measurements."""

    reason: str


class Measured(NamedTuple):
    """A cell and what was measured of it."""

    cell: Cell
    values: Measurements

    @property
    def arithmetic(self) -> tuple[str, str]:
        """Precision and device."""
        return self.values.precision, self.values.device

    @property
    def update_seconds(self) -> float:
        """Median time of a weight update, including its share of the time to make crops."""
        return statistics.median(self.values.seconds.steps) / self.values.updates

    @property
    def speeds(self) -> list[float]:
        """Crop passes a second of each repeat, all workers together."""
        return [self.values.crop_passes / seconds for seconds in self.values.seconds.steps]

    @property
    def phase_shares(self) -> dict[str, float]:
        """Each phase's share of the time of a step, in the order of the phases; `other` is the rest."""
        phases = self.values.phases
        shares = {name: phases.__pydantic_extra__.get(name, 0.0) / phases.all for name in PHASES}
        return {**shares, "other": 1 - sum(shares.values())}

    @property
    def communication_share(self) -> float | None:
        """Share of the time that the all-reduce of the gradients adds; None with one worker."""
        return self._median_of_repeats(self.values.seconds.unsynchronised, lambda steps, without: 1 - without / steps)

    @property
    def weak_efficiency(self) -> float | None:
        """Speed relative to as many single workers with a share of the images each; None with one worker."""
        return self._median_of_repeats(self.values.seconds.alone, lambda steps, alone: alone / steps)

    def _median_of_repeats(
        self, others: Sequence[float] | None, compare: Callable[[float, float], float]
    ) -> float | None:
        return None if others is None else statistics.median(map(compare, self.values.seconds.steps, others))


@dataclass(frozen=True)
class CellFolder:
    """The folder of a system part."""

    path: Path

    def _file(self, cell: Cell) -> Path:
        return self.path / f"{cell.name}.json"

    def read(self, cell: Cell) -> Measurements | Failure | None:
        """The result of a cell; None before it was tried, and where the file is damaged."""
        return content_of(self._file(cell), _parse)

    def write(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Write the result of a cell: its measurements, status and reason."""
        write_text(self._file(cell), json.dumps({"cell": dict(cell.values), **result}, indent=1) + "\n")

    def measured(self, cell: Cell) -> bool:
        """Whether a cell has measurements."""
        return isinstance(self.read(cell), Measurements)


def damaged_cells(folder: Path) -> list[DamagedFile]:
    """The files of cells that cannot be read, in the folder of a system part."""
    return [file for path in sorted(folder.glob(CELLS)) if (file := damage_of(path, _parse))]


def _parse(text: str) -> Measurements | Failure:
    return _result_of(json_object(text))


def _result_of(tree: Mapping[str, Any]) -> Measurements | Failure:
    reason = tree.get("reason")
    if tree.get("status") == "failed" and isinstance(reason, str):
        return Failure(reason)
    try:
        if tree.get("status") == "finished" and isinstance(reason, str):
            return Measurements.model_validate(tree)
    except ValidationError:
        pass
    raise ValueError("holds no measurements of a cell")


def read_cells(config: ScalingConfig, folder: CellFolder) -> list[Measured]:
    """The cells that were measured, in the order of the config."""
    results = [(cell, folder.read(cell)) for cell in config.cells]
    return [Measured(cell, result) for cell, result in results if isinstance(result, Measurements)]


def system_table(config: ScalingConfig, folder: CellFolder) -> Table:
    """A row for every cell: what it is, and what was measured."""
    measured = {one.cell.name: one for one in read_cells(config, folder)}
    rows = []
    for cell in config.cells:
        row: dict[str, Any] = {"cell": cell.name, "status": "missing", "reason": "", **cell.values}
        if one := measured.get(cell.name):
            row |= {"status": "finished", **_numbers(one, list(measured.values()))}
        elif isinstance(failure := folder.read(cell), Failure):
            row |= {"status": "failed", "reason": failure.reason}
        rows.append(row)
    keys = list(config.cells[0].values) if config.cells else []
    columns = [*map(Column, ("cell", "status", "reason")), *map(setting_column, keys), *COLUMNS]
    return Table("system", "Training steps", columns, rows)


def _numbers(one: Measured, others: Sequence[Measured]) -> dict[str, Any]:
    """The row's columns after what the cell is."""
    values = one.values
    rate = values.flops / statistics.median(values.seconds.steps)
    fastest = max(other.values.product_flops_per_second for other in others if other.arithmetic == one.arithmetic)
    peak = one.cell.workers * fastest
    return {
        "crop_passes_per_second": statistics.median(one.speeds),
        "lowest": min(one.speeds),
        "highest": max(one.speeds),
        "seconds_per_update": one.update_seconds,
        **{f"{name}_share": share for name, share in one.phase_shares.items()},
        "communication_share": one.communication_share,
        "weak_efficiency": one.weak_efficiency,
        "strong_efficiency": strong_efficiency(one, others),
        "peak_memory_bytes": values.peak_memory_bytes,
        "tflop_per_second": rate / 1e12,
        "peak_tflop_per_second": peak / 1e12,
        "mfu": rate / peak,
        "precision": values.precision,
        "threads": values.threads,
        "device": values.device,
    }


def strong_efficiency(one: Measured, others: Sequence[Measured]) -> float | None:
    """Speed relative to as many single workers with all of the images each; None where that was not measured."""
    if one.cell.workers == 1:
        return None
    steps = statistics.median(one.values.seconds.steps)
    for other in others:
        if other.cell.workers == 1 and other.cell.trial == one.cell.trial:
            return statistics.median(other.values.seconds.steps) / (one.cell.workers * steps)
    return None


def cell_line(cell: Cell, result: Mapping[str, Any]) -> str:
    """The speed and memory of a cell in a line, or why it failed; arguments as for `CellFolder.write`."""
    values = {key: value for key, value in cell.values.items() if key != WORKERS}
    what = f"{cell.workers} worker{'s' if cell.workers > 1 else ''}, {format_point(values)}"
    match _result_of(result):
        case Failure(reason):
            return f"{what}: failed: {reason}"
        case measurements:
            speed = statistics.median(Measured(cell, measurements).speeds)
            memory = format_count(measurements.peak_memory_bytes)
            return f"{what}: {speed:,.0f} crop passes a second, {memory}B of memory"
