"""Search a space for the front: python -m cfamc_ray.tune --space search_spaces/quickstart.yaml."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from cfamc_ray.command import (
    add_costs_option,
    add_run_options,
    check_data,
    check_folder,
    costs_of,
    driving,
    exit_code,
    expected_cost,
    program,
    training_work,
    typed_again,
    whole_table,
)
from cfamc_ray.config.reading import dump_study, find_space, read_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.files import write_text
from cfamc_ray.process import INTERRUPTED, before_end
from cfamc_ray.search.budget import Budget
from cfamc_ray.study.confirmation import Confirmed
from cfamc_ray.study.cost_model import CostModel
from cfamc_ray.study.finalists import confirmed_front, write_confirmation
from cfamc_ray.study.front import find_front
from cfamc_ray.study.images import found_from, note
from cfamc_ray.study.mirror import mirrored
from cfamc_ray.study.records import (
    STUDY,
    TRIALS,
    TrialFolder,
    TrialRecord,
    csv_text,
    read_trials,
    table_columns,
    trials_table,
    with_cost,
    write_config,
)
from cfamc_ray.study.takeover import take_over
from cfamc_ray.study.wording import short_names, show_seconds, show_setting, show_value
from cfamc_ray.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, run, print; the exit code is 0 with a front, 1 without, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _tune(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cfamc_ray.tune",
        description="Search a space of trials for the front of its objectives, with Ray Tune and Optuna.",
    )
    parser.add_argument("--space", required=True, metavar="FILE", help="a YAML file, or the bare name of a given space")
    parser.add_argument("--trials", type=int, metavar="N", help="how many trials; short for --set budget.trials=N")
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished study")
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        type=Path,
        metavar="STUDY",
        dest="imports",
        help="take over the trials of an earlier study on the same space",
    )
    add_costs_option(parser)
    add_run_options(
        parser, run="study", source="space", verbose="which point each trial has and what each of its epochs reached"
    )
    return parser


def _tune(arguments: argparse.Namespace) -> int:
    trials = [] if arguments.trials is None else [f"budget.trials={arguments.trials}"]
    space = find_space(arguments.space)
    config = found_from(read_study(space, [*arguments.overrides, *trials]), space.parent)
    folder = (arguments.out / config.name).resolve()
    costs = costs_of(arguments, config)
    if arguments.dry_run:
        _print_plan(config, costs)
        return 0
    try:
        with mirrored(folder, arguments.mirror):
            return _search(config, folder, arguments, costs)
    except KeyboardInterrupt:
        print(f"\nInterrupted; nothing is lost. Go on with\n  {_resume_command(arguments, folder)}")
        return INTERRUPTED


def _search(config: StudyConfig, folder: Path, arguments: argparse.Namespace, costs: CostModel | None) -> int:
    """Begin or go on, and confirm the front where the study says so."""
    budget = Budget(config, work_of=training_work, costs=costs)
    if check_folder(config, folder, resume=arguments.resume, over=budget.over) and not arguments.imports:
        return _finish(config, folder) or _confirm(config, folder, arguments)
    digests = check_data(config, [config.trial_at(next(config.points()))], folder)
    with driving(folder):
        write_config(folder, config)
        note(folder, digests, config=config)
        for source in arguments.imports:
            say(f"{take_over(config, folder, source)} trials taken over from {source}", arguments.detail)
        code = _run(config, folder, arguments, costs)
    return code or _confirm(config, folder, arguments)


def _run(config: StudyConfig, folder: Path, arguments: argparse.Namespace, costs: CostModel | None) -> int:
    """Run the study until it is over.

    Raises:
        KeyboardInterrupt: where it was interrupted; the front so far is printed.
    """
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415

    at_once = f"{config.budget.trials} trials, {config.resources.trials_at_once} at once"
    say(f"{config.name}: {at_once} → {folder}", arguments.detail)
    say(f"Ray is starting; what it says goes to {folder / 'ray.log'}", arguments.detail)
    before_end(lambda: _finish(config, folder))
    try:
        over = run_study(config, folder, address=arguments.address, detail=arguments.detail, costs=costs)
    except KeyboardInterrupt:  # before Tune listens for it, or a second time
        over = ""
    code = _finish(config, folder)
    if over:
        print(f"\nThe study is over: {over}")
        return max(code, int("failed alike" in over))
    raise KeyboardInterrupt


def _confirm(config: StudyConfig, folder: Path, arguments: argparse.Namespace) -> int:
    """Train and test the front anew where the study says so, and print what that shows."""
    if config.confirm is None:
        return 0
    from cfamc_ray.orchestration.confirmation import run_confirmation  # noqa: PLC0415 (Ray is slow to import)
    from cfamc_ray.report import write_report  # noqa: PLC0415

    known = confirmed_front(config, folder)
    if not known or any(found.seeds < config.confirm.seeds for found in known):
        check_data(config, [config.trial_at(next(config.points()))], folder)
    say(f"\nThe front is confirmed with {config.confirm.seeds} fresh seeds → {folder / 'confirm'}", arguments.detail)
    with driving(folder):
        write_config(folder, config)
        try:
            complete = run_confirmation(config, folder, address=arguments.address, detail=arguments.detail)
        except KeyboardInterrupt:
            complete = False
        confirmed = confirmed_front(config, folder)
        write_confirmation(config, folder, confirmed)
    if not complete:
        raise KeyboardInterrupt
    if confirmed:
        _print_confirmed(config, confirmed)
    print(f"\nReport     {write_report(folder)}")
    print(f"Tables     {folder / 'confirm.csv'}, {folder / 'attainment.csv'}")
    return 0


def _print_confirmed(config: StudyConfig, confirmed: Sequence[Confirmed]) -> None:
    """What the search had seen, the same measured again with fresh seeds, and what the strongest attack leaves."""
    table = Table(box=None, pad_edge=False)
    for name in ("trial", "seeds", "on the front"):
        table.add_column(name, justify="right")
    for name in config.objectives:
        again = ["again"] if f"{name}_again" in confirmed[0].means else []
        for column in ("searched", *again, "confirmed", "flattered by"):
            table.add_column(f"{name.replace('_', ' ')}\n{column}", justify="right", no_wrap=True)
    for found in confirmed:
        cells = [str(found.record.number), str(found.seeds), show_value("accuracy", found.front_probability)]
        for name in config.objectives:
            low, high = found.intervals[name]
            again = [show_value(name, found.means[f"{name}_again"])] if f"{name}_again" in found.means else []
            cells += [
                show_value(name, found.searched[name]),
                *again,
                f"{show_value(name, found.means[name])} ({show_value(name, low)} – {show_value(name, high)})",
                show_value(name, found.flattered[name]),
            ]
        table.add_row(*cells)
    print("\n" + whole_table(table))


def _finish(config: StudyConfig, folder: Path) -> int:
    """Write the derived files, keep the encoders that are asked for, print the front."""
    from cfamc_ray.report import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

    records = read_trials(folder)
    front = find_front(config, records)
    for name, rows in ((TRIALS, records), ("front.csv", front.members)):
        write_text(folder / name, csv_text(trials_table(config, rows), columns=table_columns(config)))
    kept = {record.number for record in front.members}
    set_aside = [record for record in records if record.status == "finished" and record.number not in kept]
    if config.keep_encoders == "front":
        for record in set_aside:
            TrialFolder(folder, record.number).encoder.unlink(missing_ok=True)
    _print_front(config, front.members, records)
    print(f"\nReport     {write_report(folder)}")
    print(f"Tables     {folder / 'front.csv'}, {folder / 'trials.csv'}")
    print(f"Live view  {shlex.join([program('tensorboard'), '--logdir', str(folder)])}")
    return 0 if front.members else 1


def _print_front(config: StudyConfig, members: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> None:
    finished = sum(record.status == "finished" for record in records)
    print(f"\n{len(members)} of {finished} finished trials are on the front of {config.name}")
    for record in records:
        if record.status not in ("finished", "running"):
            print(f"  {record.trial_id} {record.status}: {record.reason}")
    if not members:
        return
    table = Table(box=None, pad_edge=False)
    metrics = with_cost(config.objectives)
    for name in ("trial", *short_names(metrics), "time", *short_names(list(config.space))):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    for record in members:
        values = [show_value(metric, record.value(metric)) for metric in metrics]
        seconds = show_seconds(record.value("train_seconds") + record.value("eval_seconds"))
        point = [show_setting(key, record.point[key]) for key in config.space]
        table.add_row(str(record.number), *values, seconds, *point)
    print(whole_table(table))


def _print_plan(config: StudyConfig, costs: CostModel | None) -> None:
    from cfamc_ray.evaluation.cost import sample_trials, study_cost  # noqa: PLC0415

    print(dump_study(config))
    sample = sample_trials(config)
    cost = study_cost(sample)
    trials = config.budget.trials
    print(
        f"# {trials} trials of {cost.crop_passes_low:.3g} to {cost.crop_passes_high:.3g} crop passes; "
        f"about {cost.crop_passes_mean * trials:.3g} crop passes and {cost.flops_mean * trials:.3g} FLOPs in all"
    )
    if evaluation := cost.evaluation(trials):
        print(f"# {evaluation}")
    if costs:
        print(expected_cost(costs, sample, trials=trials, at_once=config.resources.trials_at_once))


def _resume_command(arguments: argparse.Namespace, folder: Path) -> str:
    words = ["--space", arguments.space, "--out", str(arguments.out)]
    words += ["--resume"] if (folder / STUDY).exists() else []
    words += ["--trials", str(arguments.trials)] if arguments.trials is not None else []
    words += [word for source in arguments.imports for word in ("--import", str(source))]
    return typed_again("cfamc_ray.tune", words, arguments)


if __name__ == "__main__":
    sys.exit(main())
