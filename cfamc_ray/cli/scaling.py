"""Fit and draw a scaling study, finished or running: cfamc scaling runs/scaling."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import exit_code, writing
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import read_resolved
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.host.files import write_text
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.scaling.study import CONFIG, LEARNING, SYSTEM, conclusions, read_run
from cfamc_ray.scaling.system import system_conclusions
from cfamc_ray.scaling.trial_table import learning_columns, learning_table
from cfamc_ray.store.cells import system_columns, system_table
from cfamc_ray.store.records import csv_text


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc scaling") -> int:
    """Read, fit, draw, print; 0 with fits, 1 without, 2 for bad input."""
    parser = argparse.ArgumentParser(prog=prog, description="Fit and draw a scaling study from what has finished.")
    parser.add_argument("run", type=Path, help="the run's folder")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _write(arguments.run))


def _write(run: Path) -> int:
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: holds no scaling study (there is no {CONFIG} in it)")
    for part in (SYSTEM, LEARNING):
        warn_of_damage(run / part)
    with writing(run):
        return write_fits(read_resolved(ScalingConfig, run / CONFIG), run)


def write_fits(config: ScalingConfig, folder: Path) -> int:
    """Write tables, fits.json and figures, and print what they say; 1 where nothing could be fitted.

    Args:
        config: of the run.
        folder: of the run, finished or not.
    """
    from cfamc_ray.figures.scaling import scaling_charts  # noqa: PLC0415 (matplotlib is slow to import)
    from cfamc_ray.figures.static import save_chart  # noqa: PLC0415
    from cfamc_ray.report.page import write_report  # noqa: PLC0415

    run = read_run(config, folder)
    charts = scaling_charts(run)
    tables = {"fits.json": json.dumps(run.tree, indent=1) + "\n"}
    if run.measured:
        tables["system.csv"] = csv_text(system_table(config, run.cells), columns=system_columns(config))
    if run.records:
        tables["learning.csv"] = csv_text(learning_table(config, run.records), columns=learning_columns(config))
    for name, text in tables.items():
        write_text(folder / name, text)
    for chart in charts:
        save_chart(chart, folder)
    if config.cells:
        print(f"\n{len(run.measured)} of {len(config.cells)} cells of {config.name} have been measured")
        print("\n".join(system_conclusions(run.system)))
    if config.learning_points:
        print(f"\n{len(run.trials.points)} of {len(config.learning_points)} trials of {config.name} have finished")
        print("\n".join(conclusions(run.learning)))
    print(f"\nTables   {', '.join(str(folder / name) for name in tables)}")
    if charts:
        print(f"Figures  {', '.join(str(folder / f'{chart.name}.png') for chart in charts)}")
    if run.learned:
        print(f"Report   {write_report(folder / LEARNING, scaling=run)}")
    return 0 if run.fitted else 1
