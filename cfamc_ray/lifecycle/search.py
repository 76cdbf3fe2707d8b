"""Run a search: begin or resume, run its trials, write the results, confirm the front."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.front.confirmation import Confirmation
from cfamc_ray.front.expectation import expected
from cfamc_ray.front.finalists import confirmed_front, find_finalists, write_confirmation
from cfamc_ray.front.front import find_front
from cfamc_ray.host.files import write_text
from cfamc_ray.host.process import before_end
from cfamc_ray.lifecycle.checks import check_data, check_folder, check_loggers, driving
from cfamc_ray.lifecycle.costs import trial_work
from cfamc_ray.lifecycle.earlier import check_earlier, gather_earlier, write_ranking
from cfamc_ray.lifecycle.plans import PlannedStudy
from cfamc_ray.lifecycle.reporting import Reporter, SearchResult
from cfamc_ray.search.budget import Budget
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.images import note
from cfamc_ray.store.layout import CONFIRM, FRONT, RAY_LOG, TRIALS
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials, write_config
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.store.trial_tables import trials_table
from cfamc_ray.store.warm_start import warm_start_from


def run_search(
    study: PlannedStudy,
    *,
    resume: bool = False,
    warm_start: Sequence[Path | str] = (),
    costs: CostModel | None = None,
    address: str | None = None,
    reporter: Reporter,
) -> SearchResult:
    """Begin or resume a study, run it until it is over, write its tables, and confirm the front if the space says so.

    Args:
        study: study to run.
        resume: as in `cfamc_ray.run_study`.
        warm_start: as in `cfamc_ray.run_study`.
        costs: cost model that a scaling study has fitted.
        address: as in `cfamc_ray.run_study`.
        reporter: shows progress and results.

    Raises:
        InputError: as `cfamc_ray.run_study`.
        KeyboardInterrupt: after an interruption, once tables and report are written.
    """
    config, folder = study.config, study.folder
    over = Budget(config, work_of=trial_work, costs=costs).over
    if check_folder(config, folder, resume=resume, over=over) and not warm_start:
        result = write_result(study, reporter)
    else:
        check_loggers(config)
        check_earlier(study)
        digests = check_data(config, [SearchSpace(config).first_trial], folder)
        with driving(folder):
            write_config(folder, config)
            note(folder, digests, config=config)
            for source in warm_start:
                reporter.say(f"{warm_start_from(config, folder, Path(source))} trials warm-started from {source}")
            failed = gather_earlier(study, lambda proxy: _run_trials(proxy, None, address, reporter), reporter)
            result = failed or _run_trials(study, costs, address, reporter)
    if config.confirm is not None and not result.failed:
        confirm_front(study, address=address, reporter=reporter)
    return result


def _run_trials(study: PlannedStudy, costs: CostModel | None, address: str | None, reporter: Reporter) -> SearchResult:
    """Run trials until the study is over.

    Raises:
        KeyboardInterrupt: after an interruption, once the results so far are written and reported.
    """
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (Ray is slow to import)

    config, folder = study.config, study.folder
    reporter.say(f"{config.name}: {config.budget.trials} trials, {config.resources.trials_at_once} at once → {folder}")
    reporter.say(f"Ray is starting; its output goes to {folder / RAY_LOG}")
    before_end(lambda: write_result(study, reporter))
    try:
        end_reason = run_study(config, folder, address=address, detail=reporter.detail, costs=costs)
    except KeyboardInterrupt:  # before Tune handles it, or a second one
        end_reason = None
    result = write_result(study, reporter, end_reason=end_reason)
    if not end_reason:
        raise KeyboardInterrupt
    return result


def write_result(study: PlannedStudy, reporter: Reporter, *, end_reason: StopReason | None = None) -> SearchResult:
    """Write the tables and the report, and delete the encoders that the space does not keep.

    Args:
        study: study, finished or not.
        reporter: shows the result.
        end_reason: reason why the study is over.
    """
    from cfamc_ray.report.page import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

    config, folder, records = study.config, study.folder, read_trials(study.folder)
    front = find_front(config, records)
    for name, rows in ((TRIALS, records), (FRONT, front.members)):
        write_text(folder / name, trials_csv(config, rows))
    if config.keep_encoders == "front":
        kept = front.trials | find_front(config, expected(config, records)).trials
        for record in records:
            if record.status == "finished" and record.number not in kept:
                TrialFolder(folder, record.number).drop_weights()
    write_ranking(config, folder, records)
    result = SearchResult(records, front, write_report(folder), end_reason)
    reporter.search_ended(study, result)
    return result


def trials_csv(config: StudyConfig, records: Sequence[TrialRecord]) -> str:
    """The table of trials, or of operating points of trials, in the format of trials.csv and front.csv."""
    return trials_table(config, records).csv()


def confirm_front(study: PlannedStudy, *, address: str | None = None, reporter: Reporter) -> list[Confirmation]:
    """Train the front again with fresh seeds and test it; `study.config.confirm` must be set.

    Args:
        study: study whose front is confirmed.
        address: as in `cfamc_ray.run_study`.
        reporter: shows progress and results.

    Returns:
        A confirmation of each candidate.

    Raises:
        InputError: as `cfamc_ray.run_study`.
        KeyboardInterrupt: after an interruption, once the confirmations so far are written.
    """
    from cfamc_ray.orchestration.confirmation import run_confirmation  # noqa: PLC0415 (Ray is slow to import)
    from cfamc_ray.report.page import write_report  # noqa: PLC0415

    config, folder = study.config, study.folder
    assert config.confirm is not None
    earlier = confirmed_front(config, folder)
    if not earlier or any(confirmation.seeds < config.confirm.seeds for confirmation in earlier):
        check_data(config, [SearchSpace(config).first_trial], folder)
    reporter.say(f"\nThe front is confirmed with {config.confirm.seeds} fresh seeds → {folder / CONFIRM}")
    if left_out := find_finalists(config, read_trials(folder)).left_out:
        limit = config.confirm.points
        reporter.say(f"confirm.points is {limit}; points of the front or near it that are left out: {len(left_out)}")
    complete = False
    with driving(folder):
        write_config(folder, config)
        with suppress(KeyboardInterrupt):
            complete = run_confirmation(config, folder, address=address, detail=reporter.detail)
        confirmations = confirmed_front(config, folder)
        write_confirmation(config, folder, confirmations)
    if not complete:
        raise KeyboardInterrupt
    reporter.front_confirmed(study, confirmations, write_report(folder))
    return confirmations
