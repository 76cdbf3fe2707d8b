"""Run a scaling study: measure its cells, train its trials, fit both, and write the results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.host.files import write_text
from cfamc_ray.lifecycle.checks import check_data, check_folder, driving
from cfamc_ray.lifecycle.plans import PlannedScaling
from cfamc_ray.scaling.study import ScalingRun, conclusions, read_run
from cfamc_ray.scaling.system import system_conclusions
from cfamc_ray.scaling.trial_table import learning_table
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.cells import CellFolder, system_table
from cfamc_ray.store.images import Digests, note, portable
from cfamc_ray.store.layout import FITS, LEARNING, LEARNING_TABLE, SCALING, STUDY, SYSTEM, SYSTEM_TABLE
from cfamc_ray.store.records import damaged_records
from cfamc_ray.terminal import Detail, say

Part = Literal["all", "system", "learning"]
"""The part of a scaling study to run."""


@dataclass(frozen=True)
class ScalingResult:
    """The fits of a scaling study and the files that hold them."""

    folder: Path
    """Folder of the scaling study."""
    run: ScalingRun = field(repr=False)
    """Its config, cells, trials and fits."""
    tables: Sequence[Path]
    """CSV files, and fits.json with the coefficients of the fitted models."""
    figures: Sequence[Path]
    """PNG files."""
    report: Path | None
    """The page of the learning part; None until all its trials have ended."""

    @property
    def conclusions(self) -> list[str]:
        """Conclusions from the cells and the trials, in sentences with numbers."""
        config = self.run.config
        of_system = system_conclusions(self.run.system) if config.cells else []
        return [*of_system, *(conclusions(self.run.learning) if config.learning_points else [])]


def parts_of(config: ScalingConfig, part: Part) -> list[str]:
    """The parts to run.

    Args:
        config: config of the scaling study.
        part: requested part.

    Raises:
        InputError: if the space has no such part.
    """
    has_part = {SYSTEM: bool(config.cells), LEARNING: bool(config.learning_points)}
    keys = {SYSTEM: "system.grid", LEARNING: "learning.crop_passes"}
    if part != "all" and part not in has_part:
        raise InputError(f"part: there is no {part!r}; there are all, {', '.join(has_part)}")
    if part != "all" and not has_part[part]:
        raise InputError(f"--part {part}: {config.name} has no such part; write {keys[part]}")
    return [name for name in has_part if has_part[name] and part in ("all", name)]


def run_parts(
    study: PlannedScaling,
    parts: Sequence[str],
    *,
    costs: CostModel | None = None,
    address: str | None = None,
    detail: Detail,
) -> bool:
    """Run the unfinished work of some parts.

    Args:
        study: scaling study to run.
        parts: parts from `parts_of`.
        costs: cost model that another scaling study has fitted.
        address: address of a running Ray cluster; None to start Ray on this machine.
        detail: amount of progress output.

    Returns:
        Whether everything is done; False after an interruption.

    Raises:
        InputError: as `cfamc_ray.run_scaling`.
    """
    missing = [part for part in parts if part != LEARNING or not _is_trained(study)]
    try:
        for part in missing:
            if part == SYSTEM:
                _measure_cells(study, address, detail)
            elif not _train_trials(study, costs, address, detail):
                return False
    except KeyboardInterrupt:
        return False
    _write_config(study)  # also if it was damaged
    return True


def _write_config(study: PlannedScaling) -> None:
    write_text(study.folder / SCALING, dump_study(portable(study.config, study.folder)))


def _measure_cells(study: PlannedScaling, address: str | None, detail: Detail) -> None:
    config, cells = study.config, CellFolder(study.folder / SYSTEM)
    missing = sum(not cells.measured(cell) for cell in config.cells)
    if not missing:
        return
    from cfamc_ray.orchestration.cells import run_cells  # noqa: PLC0415 (Ray is slow to import)

    say(f"{config.name}: {missing} cells to measure → {cells.path}", detail)
    with driving(cells.path):
        _write_config(study)
        run_cells(config, cells, address=address, detail=detail)


def _is_trained(study: PlannedScaling) -> bool:
    """Return whether all trials of the learning part have ended, and check that unfinished ones can run.

    Raises:
        InputError: if the folder holds another study, or images are missing or invalid.
    """
    learning, folder = study.config.learning_study, study.folder / LEARNING
    begun = (folder / STUDY).exists() or bool(damaged_records(folder))
    if check_folder(learning, folder, resume=begun):
        return True
    _check_images(study)
    return False


def _check_images(study: PlannedScaling) -> Digests:
    learning = study.config.learning_study
    return check_data(study.config, map(learning.trial_at, SearchSpace(learning).first_points), study.folder / LEARNING)


def _train_trials(study: PlannedScaling, costs: CostModel | None, address: str | None, detail: Detail) -> bool:
    """Train the missing trials; False after an interruption."""
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (Ray is slow to import)

    learning, folder = study.config.learning_study, study.folder / LEARNING
    digests = _check_images(study)
    say(f"{study.config.name}: {learning.budget.trials} trials → {folder}", detail)
    with driving(folder):
        _write_config(study)
        note(folder, digests, config=study.config)
        return run_study(learning, folder, address=address, detail=detail, costs=costs) is not None


def write_fits(study: PlannedScaling) -> ScalingResult:
    """Fit the available results, and write tables, fits.json, figures and, once all trials have ended, the report.

    Args:
        study: scaling study, finished or not.
    """
    from cfamc_ray.figures.scaling import scaling_charts  # noqa: PLC0415 (matplotlib is slow to import)
    from cfamc_ray.figures.static import save_chart  # noqa: PLC0415
    from cfamc_ray.report.page import write_report  # noqa: PLC0415

    config, folder = study.config, study.folder
    run = read_run(config, folder)
    charts = scaling_charts(run)
    tables = {FITS: json.dumps(run.tree, indent=1) + "\n"}
    if run.measured:
        tables[SYSTEM_TABLE] = system_table(config, run.cells).csv()
    if run.records:
        tables[LEARNING_TABLE] = learning_table(config, run.records).csv()
    for name, text in tables.items():
        write_text(folder / name, text)
    for chart in charts:
        save_chart(chart, folder)
    return ScalingResult(
        folder,
        run,
        tables=[folder / name for name in tables],
        figures=[folder / f"{chart.name}.png" for chart in charts],
        report=write_report(folder / LEARNING, scaling=run) if run.learned else None,
    )
