"""Measure and fit how work and learning grow: python -m cfamc_ray.scale --space search_spaces/scaling.yaml."""

import argparse
import sys
from collections.abc import Sequence

from cfamc_ray.cli.command import (
    add_costs_option,
    add_run_options,
    command_line,
    command_parser,
    exit_code,
    expected_cost,
)
from cfamc_ray.cli.scaling import print_fits
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.host.process import INTERRUPTED
from cfamc_ray.lifecycle.costs import cost_model
from cfamc_ray.lifecycle.plans import PlannedScaling, plan_scaling
from cfamc_ray.lifecycle.scaling import parts_of, run_parts, write_fits
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.layout import LEARNING, SYSTEM
from cfamc_ray.store.mirror import mirrored


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m cfamc_ray.scale") -> int:
    """Parse, check, train, fit, print; 0 with fits, 1 without, 2 for bad input, 130 after Ctrl-C."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _scale(arguments))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Measure training steps, and train a designed set of trials at several budgets; fit how time, memory and error "
        "grow. Re-running resumes.",
        {
            "--space scaling.yaml": "both parts, on handwritten digits",
            "--space scaling.yaml --part system": "only what time and memory take on this machine",
            "--space scaling.yaml --dry-run": "what it would train, and the cost",
        },
    )
    parser.add_argument("--part", choices=("all", SYSTEM, LEARNING), default="all", help="which part to run (all)")
    parser.add_argument("--space", required=True, metavar="FILE", help="a YAML file, or the bare name of a given space")
    add_costs_option(parser)
    add_run_options(parser, run="run", source="space", verbose="what each cell took and each trial reached")
    return parser


def _scale(arguments: argparse.Namespace) -> int:
    study = plan_scaling(arguments.space, out=arguments.out, overrides=arguments.overrides)
    parts = parts_of(study.config, arguments.part)
    costs = cost_model(arguments.costs, study.config.learning_study) if LEARNING in parts else None
    if arguments.dry_run:
        _print_plan(study.config, costs)
        return 0
    try:
        with mirrored(study.folder, arguments.mirror):
            return _run(study, parts, arguments, costs)
    except KeyboardInterrupt:
        words = ["--space", arguments.space, "--out", str(arguments.out), "--part", arguments.part]
        print(f"\nInterrupted; nothing is lost. Resume with\n  {command_line(words, arguments)}")
        return INTERRUPTED


def _run(study: PlannedScaling, parts: Sequence[str], arguments: argparse.Namespace, costs: CostModel | None) -> int:
    complete = run_parts(study, parts, costs=costs, address=arguments.address, detail=arguments.detail)
    result = write_fits(study)
    print_fits(result)
    if not complete:
        raise KeyboardInterrupt
    return 0 if result.run.fitted else 1


def _print_plan(config: ScalingConfig, costs: CostModel | None) -> None:
    from cfamc_ray.cost.work import study_cost  # noqa: PLC0415 (torch is slow to import)

    print(dump_study(config))
    if config.cells:
        print(f"# {len(config.cells)} cells, each in processes of its own")
    if config.learning_points:
        study = config.learning_study
        trials = [study.trial_at(point) for point in SearchSpace(study).first_points]
        cost, many = study_cost(trials), len(trials)
        passes, flops = cost.crop_passes_mean * many, cost.flops_mean * many
        print(f"# {many} trials; {passes:.3g} crop passes and {flops:.3g} FLOPs in all")
        if evaluation := cost.evaluation(many):
            print(f"# {evaluation}")
        if costs:
            print(expected_cost(costs, trials, trials=len(trials), at_once=study.resources.trials_at_once))


if __name__ == "__main__":
    sys.exit(main())
