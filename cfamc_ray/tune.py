"""Search a space for the front: python -m cfamc_ray.tune --space search_spaces/quickstart.yaml."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from cfamc_ray.cli.command import (
    add_costs_option,
    add_run_options,
    command_line,
    command_parser,
    exit_code,
    expected_cost,
    program,
    whole_table,
)
from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.formatting import format_quantity, format_seconds, format_value, short_names
from cfamc_ray.front.confirmation import Confirmation
from cfamc_ray.front.front import Front
from cfamc_ray.host.process import INTERRUPTED
from cfamc_ray.lifecycle.costs import cost_model
from cfamc_ray.lifecycle.plans import PlannedStudy, plan_study
from cfamc_ray.lifecycle.reporting import Reporter, SearchResult
from cfamc_ray.lifecycle.search import run_search
from cfamc_ray.metrics import find_metric
from cfamc_ray.space.reading import proxy_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.layout import ATTAINMENT, CONFIRM_TABLE, FRONT, STUDY, TRIALS
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2, setting_column
from cfamc_ray.store.trial_tables import settings_columns, settings_of, with_cost


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m cfamc_ray.tune") -> int:
    """Parse, check, run, print; the exit code is 0 with a front, 1 without, 2 for bad input, 130 after Ctrl-C."""
    arguments = build_parser(prog).parse_args(argv)
    return exit_code(lambda: _tune(arguments))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Search a space of trials for the front of its objectives, with Ray Tune and Optuna.",
        {
            "--space quickstart.yaml": "a front on handwritten digits within minutes",
            "--space mine.yaml --dry-run": "a space of your own: all its keys, and the cost",
            "--space mine.yaml --resume --trials 40": "go on after any kind of end, with more trials",
            "--space mine.yaml --set confirm.seeds=3": "test the front with fresh seeds, on test images",
            '--space mine.yaml --set "search.proxy=[encoder.width=8]"': "learn from a cheaper study first",
            "--space mine.yaml --address auto": "on a running Ray cluster",
        },
    )
    parser.add_argument("--space", required=True, metavar="FILE", help="a YAML file, or the bare name of a given space")
    parser.add_argument("--trials", type=int, metavar="N", help="how many trials; short for --set budget.trials=N")
    parser.add_argument("--resume", action="store_true", help="resume an unfinished study")
    parser.add_argument(
        "--warm-start",
        action="append",
        default=[],
        type=Path,
        metavar="STUDY",
        help="reuse the trials of an earlier study on the same space",
    )
    add_costs_option(parser)
    add_run_options(
        parser, run="study", source="space", verbose="which point each trial has and what each of its epochs reached"
    )
    return parser


def _tune(arguments: argparse.Namespace) -> int:
    trials = [] if arguments.trials is None else [f"budget.trials={arguments.trials}"]
    study = plan_study(arguments.space, out=arguments.out, overrides=[*arguments.overrides, *trials])
    costs = cost_model(arguments.costs, study.config)
    if arguments.dry_run:
        _print_plan(study.config, costs)
        return 0
    try:
        with mirrored(study.folder, arguments.mirror):
            result = run_search(
                study,
                resume=arguments.resume,
                warm_start=arguments.warm_start,
                costs=costs,
                address=arguments.address,
                reporter=Printer(arguments.detail),
            )
    except KeyboardInterrupt:
        print(f"\nInterrupted; nothing is lost. Resume with\n  {_resume_command(arguments, study.folder)}")
        return INTERRUPTED
    return int(result.failed)


class Printer(Reporter):
    """Prints the front, its confirmation, and the paths of reports and tables."""

    def search_ended(self, study: PlannedStudy, result: SearchResult) -> None:
        """Print the front and why the study is over."""
        _print_front(study.config, result.front, result.records)
        print(f"\nReport     {result.report}")
        print(f"Tables     {study.folder / FRONT}, {study.folder / TRIALS}")
        print(f"Live view  {shlex.join([program('tensorboard'), '--logdir', str(study.folder)])}")
        if result.end_reason:
            print(f"\nThe study is over: {result.end_reason.text}")

    def front_confirmed(self, study: PlannedStudy, confirmations: Sequence[Confirmation], report: Path) -> None:
        """Print the front with fresh seeds and under the strongest attack."""
        if confirmations:
            _print_confirmations(study.config, confirmations)
        print(f"\nReport     {report}")
        print(f"Tables     {study.folder / CONFIRM_TABLE}, {study.folder / ATTAINMENT}")


def _print_confirmations(config: StudyConfig, confirmations: Sequence[Confirmation]) -> None:
    """Of each candidate: the search's value, the same with fresh seeds, and the value under the strongest attack."""
    table = Table(box=None, pad_edge=False)
    strengths = ["L2"] if any(each.record.l2 is not None for each in confirmations) else []
    for name in ("trial", *strengths, "seeds", "on the front"):
        table.add_column(name, justify="right")
    for name in config.objectives:
        again = ["again"] if name in confirmations[0].again else []
        for column in ("searched", *again, "confirmed", "optimism"):
            table.add_column(f"{find_metric(name).label}\n{column}", justify="right", no_wrap=True)
    for each in confirmations:
        strength = [setting_column(L2).show(each.record.l2)] if strengths else []
        cells = [
            str(each.record.number),
            *strength,
            str(each.seeds),
            format_quantity("fraction", each.front_probability),
        ]
        for name in config.objectives:
            _, mean, (low, high) = each.tested[name]
            again = [format_value(name, each.again[name].mean)] if name in each.again else []
            cells += [
                format_value(name, each.searched[name]),
                *again,
                f"{format_value(name, mean)} ({format_value(name, low)} – {format_value(name, high)})",
                format_value(name, each.optimism[name]),
            ]
        table.add_row(*cells)
    print("\n" + whole_table(table))


def _print_front(config: StudyConfig, front: Front, records: Sequence[TrialRecord]) -> None:
    print(f"\n{front.sentence} of {config.name}")
    for record in records:
        if record.status not in ("finished", "running"):
            print(f"  {record.trial_id} {record.status}: {record.reason}")
    if not front.members:
        return
    table = Table(box=None, pad_edge=False)
    metrics, columns = with_cost(config.objectives), settings_columns(config, front.members)
    settings = short_names([column.label or column.name for column in columns])
    for name in ("trial", *(find_metric(name).label for name in metrics), "time", *settings):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    for record in front.members:
        values = [format_value(metric, record.value(metric)) for metric in metrics]
        seconds = format_seconds(record.value("train_seconds") + record.value("eval_seconds"))
        cells = settings_of(config, record)
        point = [column.cell(cells) for column in columns]
        table.add_row(str(record.number), *values, seconds, *point)
    print(whole_table(table))


def _print_plan(config: StudyConfig, costs: CostModel | None) -> None:
    print(dump_study(config))
    if config.search.proxy:
        print(f"# The cheaper study runs first ({', '.join(config.search.proxy)}):")
        _print_cost(proxy_study(config))
    sample = _print_cost(config)
    if costs:
        print(expected_cost(costs, sample, trials=config.budget.trials, at_once=config.resources.trials_at_once))


def _print_cost(config: StudyConfig) -> Sequence[TrialConfig]:
    """Print what a study computes; the sample of its trials by which that was estimated."""
    from cfamc_ray.cost.work import study_cost  # noqa: PLC0415

    sample = SearchSpace(config).sample_trials()
    cost, trials = study_cost(sample), config.budget.trials
    print(
        f"# {trials} trials of {cost.crop_passes_low:.3g} to {cost.crop_passes_high:.3g} crop passes; "
        f"about {cost.crop_passes_mean * trials:.3g} crop passes and {cost.flops_mean * trials:.3g} FLOPs in all"
    )
    if evaluation := cost.evaluation(trials):
        print(f"# {evaluation}")
    return sample


def _resume_command(arguments: argparse.Namespace, folder: Path) -> str:
    words = ["--space", arguments.space, "--out", str(arguments.out)]
    words += ["--resume"] if (folder / STUDY).exists() else []
    words += ["--trials", str(arguments.trials)] if arguments.trials is not None else []
    words += [word for source in arguments.warm_start for word in ("--warm-start", str(source))]
    return command_line(words, arguments)


if __name__ == "__main__":
    sys.exit(main())
