"""How work and learning grow with what is spent: python -m cfamc_ray.scale --space search_spaces/scaling.yaml."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cfamc_ray.cli.command import add_costs_option, add_run_options, command_line, costs_of, exit_code, expected_cost
from cfamc_ray.cli.scaling import write_fits
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study, find_space, read_scaling
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.host.files import write_text
from cfamc_ray.host.process import INTERRUPTED
from cfamc_ray.lifecycle.checks import check_data, check_folder, driving
from cfamc_ray.scaling.study import CONFIG, LEARNING, SYSTEM
from cfamc_ray.store.cells import CellFolder
from cfamc_ray.store.images import Digests, found_from, note, portable
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import STUDY, damaged_records
from cfamc_ray.terminal import say

Part = Callable[[ScalingConfig, Path, argparse.Namespace, CostModel | None], bool]
"""Runs what is missing; False after an interruption."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m cfamc_ray.scale") -> int:
    """Parse, check, train, fit, print; 0 with fits, 1 without, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser(prog).parse_args(argv)
    return exit_code(lambda: _scale(arguments))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure training steps, and train a designed set of trials at several budgets; fit how time, "
        "memory and error grow. Re-running resumes.",
    )
    parser.add_argument("--part", choices=("all", SYSTEM, LEARNING), default="all", help="which to run (all)")
    parser.add_argument("--space", required=True, metavar="FILE", help="a YAML file, or the bare name of a given space")
    add_costs_option(parser)
    add_run_options(parser, run="run", source="space", verbose="what each cell took and each trial reached")
    return parser


def _scale(arguments: argparse.Namespace) -> int:
    space = find_space(arguments.space)
    config = found_from(read_scaling(space, arguments.overrides), space.parent)
    folder = (arguments.out / config.name).resolve()
    wanted = _wanted(config, arguments)
    costs = costs_of(arguments, config.learning_study) if LEARNING in wanted else None
    if arguments.dry_run:
        _print_plan(config, costs)
        return 0
    try:
        with mirrored(folder, arguments.mirror):
            return _grow(config, folder, arguments, costs, wanted)
    except KeyboardInterrupt:
        words = ["--space", arguments.space, "--out", str(arguments.out), "--part", arguments.part]
        print(f"\nInterrupted; nothing is lost. Go on with\n  {command_line(words, arguments)}")
        return INTERRUPTED


def _grow(
    config: ScalingConfig, folder: Path, arguments: argparse.Namespace, costs: CostModel | None, wanted: list[str]
) -> int:
    """Run what is missing of the wanted parts, and fit."""
    if LEARNING in wanted and _has_learned(config, folder / LEARNING):
        wanted.remove(LEARNING)
    parts: dict[str, Part] = {SYSTEM: _measure, LEARNING: _learn}
    complete = all(parts[name](config, folder, arguments, costs) for name in wanted)
    if complete:
        write_text(folder / CONFIG, dump_study(portable(config, folder)))  # also where it was damaged
    code = write_fits(config, folder)
    if not complete:
        raise KeyboardInterrupt
    return code


def _wanted(config: ScalingConfig, arguments: argparse.Namespace) -> list[str]:
    """The parts to run.

    Raises:
        InputError: where the space has no such part.
    """
    there = {SYSTEM: bool(config.cells), LEARNING: bool(config.learning_points)}
    keys = {SYSTEM: "system.grid", LEARNING: "learning.crop_passes"}
    if arguments.part != "all" and not there[arguments.part]:
        raise InputError(f"--part {arguments.part}: {arguments.space} has no such part; write {keys[arguments.part]}")
    return [name for name in there if there[name] and arguments.part in ("all", name)]


def _measure(config: ScalingConfig, folder: Path, arguments: argparse.Namespace, _: CostModel | None) -> bool:
    """Measure the cells that are missing; False after an interruption."""
    cells = CellFolder(folder / SYSTEM)
    missing = sum(not cells.measured(cell) for cell in config.cells)
    if not missing:
        return True
    from cfamc_ray.orchestration.cells import run_cells  # noqa: PLC0415 (Ray is slow to import)

    say(f"{config.name}: {missing} cells to measure → {cells.path}", arguments.detail)
    with driving(cells.path):
        write_text(folder / CONFIG, dump_study(portable(config, folder)))
        try:
            run_cells(config, cells, address=arguments.address, detail=arguments.detail)
        except KeyboardInterrupt:
            return False
    return True


def _has_learned(config: ScalingConfig, folder: Path) -> bool:
    """Whether all trials of the learning part have ended; where not, they can begin, or go on.

    Raises:
        InputError: where the folder holds another study, or images are missing or not what they should be.
    """
    study = config.learning_study
    begun = (folder / STUDY).exists() or bool(damaged_records(folder))
    if check_folder(study, folder, resume=begun):
        return True
    _check_images(config, folder)
    return False


def _check_images(config: ScalingConfig, folder: Path) -> Digests:
    study = config.learning_study
    return check_data(config, map(study.trial_at, study.first_points), folder)


def _learn(config: ScalingConfig, folder: Path, arguments: argparse.Namespace, costs: CostModel | None) -> bool:
    """Train what is missing; False after an interruption."""
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415

    study, inner = config.learning_study, folder / LEARNING
    digests = _check_images(config, inner)
    say(f"{config.name}: {study.budget.trials} trials → {inner}", arguments.detail)
    with driving(inner):
        write_text(folder / CONFIG, dump_study(portable(config, folder)))
        note(inner, digests, config=config)
        try:
            return bool(run_study(study, inner, address=arguments.address, detail=arguments.detail, costs=costs))
        except KeyboardInterrupt:
            return False


def _print_plan(config: ScalingConfig, costs: CostModel | None) -> None:
    from cfamc_ray.cost.work import study_cost  # noqa: PLC0415 (torch is slow to import)

    print(dump_study(config))
    if config.cells:
        print(f"# {len(config.cells)} cells, each in processes of its own")
    if config.learning_points:
        study = config.learning_study
        trials = [study.trial_at(point) for point in study.first_points]
        cost, many = study_cost(trials), len(trials)
        passes, flops = cost.crop_passes_mean * many, cost.flops_mean * many
        print(f"# {many} trials; {passes:.3g} crop passes and {flops:.3g} FLOPs in all")
        if evaluation := cost.evaluation(many):
            print(f"# {evaluation}")
        if costs:
            print(expected_cost(costs, trials, trials=len(trials), at_once=study.resources.trials_at_once))


if __name__ == "__main__":
    sys.exit(main())
