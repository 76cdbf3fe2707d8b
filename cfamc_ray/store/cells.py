"""The system part of a scaling study in its folder: what was measured of each cell, and the table of it.

    RUN/system/cell_0f3b….json   raw measurements of a cell, with where and when; the truth
    RUN/system/environment.json  versions, hardware; ray.log: what Ray had to say
    RUN/system.csv               derived

Every file is written under a temporary name and renamed.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, ValidationError

from cfamc_ray.config.scaling import WORKERS, Cell, ScalingConfig
from cfamc_ray.formatting import format_count, format_point
from cfamc_ray.host.files import write_text
from cfamc_ray.store.content import DamagedFile, content_of, damage_of, json_object

PHASES = ("crops", "forward", "loss", "backward", "optimizer", "perturbation")
RANGE = ("crop_passes_per_second", "lowest", "highest")
COLUMNS = (
    *RANGE,
    "seconds_per_update",
    *(f"{name}_share" for name in (*PHASES, "other")),
    "communication_share",
    "weak_efficiency",
    "strong_efficiency",
    "peak_memory_bytes",
    "tflop_per_second",
    "peak_tflop_per_second",  # of the cell with the fastest product: another may have been disturbed
    "mfu",
    "precision",
    "threads",
    "device",
)
"""Of system.csv, after what the cell is."""


_Repeats = Annotated[list[PositiveFloat], Field(min_length=1)]


class _Seconds(BaseModel):
    steps: _Repeats
    unsynchronised: _Repeats | None = None
    alone: _Repeats | None = None


class _Phases(BaseModel, extra="allow"):
    all: PositiveFloat
    __pydantic_extra__: dict[str, float]


class _Finished(BaseModel):
    """What `measure_cell` gives, as far as it is read here."""

    status: Literal["finished"]
    reason: str
    seconds: _Seconds
    phases: _Phases
    sums: list[tuple[PositiveFloat, PositiveFloat]]
    peak_memory_bytes: PositiveFloat
    product_flops_per_second: PositiveFloat
    float32_flops_per_second: PositiveFloat
    updates: PositiveFloat
    crop_passes: PositiveFloat
    flops: PositiveFloat
    activations: NonNegativeFloat
    kept: NonNegativeFloat
    parameters: PositiveFloat
    number_bytes: PositiveFloat
    precision: str
    device: str
    threads: int


class Measured(NamedTuple):
    """A cell and what was measured of it."""

    cell: Cell
    found: Mapping[str, Any]
    """As `measure_cell` gives it, with status and reason."""

    @property
    def arithmetic(self) -> tuple[str, str]:
        """Precision and device."""
        return self.found["precision"], self.found["device"]

    @property
    def product_rate(self) -> float:
        """FLOP a second of a large matrix product in one worker."""
        return float(self.found["product_flops_per_second"])

    @property
    def update_seconds(self) -> float:
        """Median of a weight update, its share of making crops included."""
        return self.seconds("steps") / float(self.found["updates"])

    def seconds(self, work: str) -> float:
        """Median of a repeat."""
        return float(statistics.median(self.found["seconds"][work]))

    @property
    def speeds(self) -> list[float]:
        """Crop passes a second of each repeat, all workers together."""
        return [self.found["crop_passes"] / seconds for seconds in self.found["seconds"]["steps"]]

    @property
    def phase_shares(self) -> dict[str, float]:
        """Of the time of the steps, in their order; `other` is what is left."""
        phases = self.found["phases"]
        shares = {name: phases.get(name, 0.0) / phases["all"] for name in PHASES}
        return {**shares, "other": 1 - sum(shares.values())}

    @property
    def communication_share(self) -> float | None:
        """Of the time, what the sum of the gradients adds; None with one worker."""
        return self._median_of_turns("unsynchronised", lambda steps, without: 1 - without / steps)

    @property
    def weak_efficiency(self) -> float | None:
        """Speed over that of so many single workers with a share of the images each; None with one worker."""
        return self._median_of_turns("alone", lambda steps, alone: alone / steps)

    def _median_of_turns(self, other: str, compare: Callable[[float, float], float]) -> float | None:
        seconds = self.found["seconds"]
        if other not in seconds:
            return None
        return float(statistics.median(map(compare, seconds["steps"], seconds[other])))


@dataclass(frozen=True)
class CellFolder:
    """Where the system part lies."""

    path: Path

    def _file(self, cell: Cell) -> Path:
        return self.path / f"{cell.name}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """What was found of a cell; None before it was tried, and where the file is damaged."""
        return content_of(self._file(cell), _tried)

    def write(self, cell: Cell, found: Mapping[str, Any]) -> None:
        """Note what was found of a cell."""
        write_text(self._file(cell), json.dumps({"cell": dict(cell.values), **found}, indent=1) + "\n")

    def measured(self, cell: Cell) -> bool:
        """Whether a cell need not be tried again."""
        return (self.read(cell) or {}).get("status") == "finished"


def damaged_cells(folder: Path) -> list[DamagedFile]:
    """The files of cells that cannot be read, in the folder of a system part."""
    return [found for path in sorted(folder.glob("cell_*.json")) if (found := damage_of(path, _tried))]


def _tried(text: str) -> dict[str, Any]:
    """What a cell's file holds: measurements, or why there are none."""
    found = json_object(text)
    if found.get("status") == "failed" and isinstance(found.get("reason"), str):
        return found
    try:
        _Finished.model_validate(found)
    except ValidationError:
        raise ValueError("holds no measurements of a cell") from None
    return found


def read_cells(config: ScalingConfig, folder: CellFolder) -> list[Measured]:
    """The cells that were measured, in their order."""
    found = [(cell, folder.read(cell)) for cell in config.cells]
    return [Measured(cell, each) for cell, each in found if each is not None and each["status"] == "finished"]


def system_table(config: ScalingConfig, folder: CellFolder) -> list[dict[str, Any]]:
    """A row for every cell: what it is, and what was measured."""
    measured = {one.cell.name: one for one in read_cells(config, folder)}
    rows = []
    for cell in config.cells:
        one, found = measured.get(cell.name), folder.read(cell) or {}
        known = {"status": found.get("status", "missing"), "reason": found.get("reason", "")}
        rows.append(
            {"cell": cell.name, **known, **cell.values, **(_numbers(one, list(measured.values())) if one else {})}
        )
    return rows


def system_columns(config: ScalingConfig) -> list[str]:
    """Columns of `system_table`."""
    return ["cell", "status", "reason", *config.cells[0].values, *COLUMNS]


def _numbers(one: Measured, others: Sequence[Measured]) -> dict[str, Any]:
    found = one.found
    rate = found["flops"] / one.seconds("steps")
    peak = one.cell.workers * max(other.product_rate for other in others if other.arithmetic == one.arithmetic)
    return {
        **dict(zip(RANGE, (statistics.median(one.speeds), min(one.speeds), max(one.speeds)), strict=True)),
        "seconds_per_update": one.update_seconds,
        **{f"{name}_share": share for name, share in one.phase_shares.items()},
        "communication_share": one.communication_share,
        "weak_efficiency": one.weak_efficiency,
        "strong_efficiency": strong_efficiency(one, others),
        "tflop_per_second": rate / 1e12,
        "peak_tflop_per_second": peak / 1e12,
        "mfu": rate / peak,
        **{name: found[name] for name in ("peak_memory_bytes", "precision", "threads", "device")},
    }


def strong_efficiency(one: Measured, others: Sequence[Measured]) -> float | None:
    """Speed over that of so many single workers with all of the images each; None where that was not measured."""
    if one.cell.workers == 1:
        return None
    for other in others:
        if other.cell.workers == 1 and other.cell.trial == one.cell.trial:
            return other.seconds("steps") / (one.cell.workers * one.seconds("steps"))
    return None


def cell_line(cell: Cell, found: Mapping[str, Any]) -> str:
    """What a cell took, or why it failed."""
    values = {key: value for key, value in cell.values.items() if key != WORKERS}
    what = f"{cell.workers} worker{'s' if cell.workers > 1 else ''}, {format_point(values)}"
    if found["status"] == "failed":
        return f"{what}: failed: {found['reason']}"
    speed, memory = statistics.median(Measured(cell, found).speeds), format_count(found["peak_memory_bytes"])
    return f"{what}: {speed:,.0f} crop passes a second, {memory}B of memory"
