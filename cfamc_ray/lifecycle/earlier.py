"""Earlier studies of a study: records that are copied, or a cheaper study that runs first in its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.search import PROXY
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.host.files import write_text
from cfamc_ray.lifecycle.checks import check_data, check_folder
from cfamc_ray.lifecycle.costs import trial_work
from cfamc_ray.lifecycle.plans import PlannedStudy
from cfamc_ray.lifecycle.reporting import Reporter, SearchResult
from cfamc_ray.search.budget import Budget
from cfamc_ray.search.earlier import transferred
from cfamc_ray.space.reading import proxy_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import EarlierStudy, copy_earlier, read_earlier
from cfamc_ray.store.layout import PRIOR, PRIOR_TABLE, STUDY
from cfamc_ray.store.records import TrialRecord, read_config, read_trials


def check_earlier(study: PlannedStudy) -> None:
    """Refuse a study of `search.prior` from which nothing can be learnt.

    Raises:
        InputError: if a folder holds no study, or one with no trial that has a place in the study's space.
    """
    config, copied = study.config, read_earlier(study.folder)
    for source in () if copied else config.search.prior:
        earlier = EarlierStudy(source, read_config(Path(source)), read_trials(Path(source)))
        if not transferred(SearchSpace(config), earlier):
            raise InputError(
                f"search.prior: {source}: no finished trial has all of {', '.join(config.objectives)} and values of "
                f"{', '.join(config.space)}"
            )


def gather_earlier(
    study: PlannedStudy, run: Callable[[PlannedStudy], SearchResult], reporter: Reporter
) -> SearchResult | None:
    """Copy the earlier studies of `search.prior`, and run that of `search.proxy`; what is there already is kept.

    Args:
        study: study that learns from them.
        run: function that runs the trials of a study until it is over.
        reporter: shows progress.

    Returns:
        Result of the proxy if it has failed, else None.

    Raises:
        InputError: if the proxy's images are missing or invalid.
        KeyboardInterrupt: after an interruption of the proxy.
    """
    config, folder = study.config, study.folder
    copy_earlier(folder, config.search.prior)
    if not config.search.proxy:
        return None
    proxy = PlannedStudy(folder / PRIOR / PROXY, proxy_study(config))
    over = Budget(proxy.config, work_of=trial_work).over
    if check_folder(proxy.config, proxy.folder, resume=(proxy.folder / STUDY).exists(), over=over):
        return None
    check_data(proxy.config, [SearchSpace(proxy.config).first_trial])
    reporter.say(f"A cheaper study runs first: {', '.join(config.search.proxy)}")
    result = run(proxy)
    return result if result.failed else None


def write_ranking(config: StudyConfig, folder: Path, records: Sequence[TrialRecord]) -> None:
    """Write prior.csv: how well the earlier studies rank the study's trials; nothing without earlier studies."""
    earlier = read_earlier(folder)
    if not earlier:
        return
    from cfamc_ray.search.ranking import ranking_table  # noqa: PLC0415 (scipy.stats is slow to import)

    table = ranking_table(SearchSpace(config), earlier, records)
    if table.rows:
        write_text(folder / PRIOR_TABLE, table.csv())
