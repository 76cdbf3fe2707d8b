"""The run of a study: its search proposes trials, and Ray Tune trains them."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import torch
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.cost.work import training_work
from cfamc_ray.host.machine import memory_bytes
from cfamc_ray.orchestration.callback import StudyCallback, View
from cfamc_ray.orchestration.images import share_sources
from cfamc_ray.orchestration.loggers import build_loggers
from cfamc_ray.orchestration.packing import pack
from cfamc_ray.orchestration.searcher import StudyScheduler, StudySearcher
from cfamc_ray.orchestration.session import running_ray
from cfamc_ray.orchestration.trainables import OneWorkerTrial, several_workers
from cfamc_ray.orchestration.view import StudyView
from cfamc_ray.search.search import Search
from cfamc_ray.search.storage import open_storage, repair_storage, stored_points
from cfamc_ray.store.earlier import read_earlier
from cfamc_ray.store.layout import trial_name
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials, write_config
from cfamc_ray.store.repair import repair
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.store.trial_tables import tabled_points
from cfamc_ray.terminal import Detail
from cfamc_ray.training.allocator import gpu_bytes

logger = logging.getLogger(__name__)


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    address: str | None = None,
    detail: Detail = "normal",
    costs: CostModel | None = None,
    view_on: Callable[..., View] = StudyView,
) -> StopReason | None:
    """Train trials until the study is over; unfinished ones resume from their last epoch.

    Args:
        config: config of the study.
        folder: folder of the study; created if missing.
        address: address of a running Ray cluster, ``auto`` or ``HOST:PORT``; None for the cluster to which this process
            is connected, or else to start Ray on this machine.
        detail: amount of progress output.
        costs: cost model from a scaling study, used until the study's own trials give one.
        view_on: creates the view, given a config, a stream and `detail`.

    Returns:
        Reason why the study is over; None after Ctrl-C.

    Raises:
        InputError: if the folder cannot be written, the cluster cannot be reached or is too small, or the storage
            holds another study.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, config)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from None
    with _quiet_optuna():
        _repair(config, folder)
        search = _search(config, folder, address, costs)
        if reason := search.over:
            return reason
        with running_ray(config.resources, folder, address) as person, view_on(config, person, detail=detail) as view:
            loggers = build_loggers(config, folder, view.say)
            _tuner(config, folder, search, [StudyCallback(search, folder, view), *loggers]).fit()
    for each in loggers:
        if each.failure:
            logger.warning(each.failure)
    if search.halted:
        raise InputError(search.halted.text)
    return search.over if all(record.ended for record in search.records.values()) else None


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Let Optuna log only warnings, and restore its log level at the end."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _search(config: StudyConfig, folder: Path, address: str | None, costs: CostModel | None) -> Search:
    """Create the search of a study, with the trials in its folder."""
    return Search(
        config,
        open_storage(folder),
        read_trials(folder),
        work_of=training_work,
        memory_bytes=_memory_of_worker(config, address),
        costs=costs,
        earlier=read_earlier(folder),
        on_refused=lambda record: _note_refusal(folder, record),
    )


def _repair(config: StudyConfig, folder: Path) -> None:
    """Set aside damaged files, and warn about them."""
    done = repair(folder, lambda: {**tabled_points(config, folder), **stored_points(config, folder)})
    for line in done + repair_storage(config, folder, read_trials(folder)):
        logger.warning(line)


def _note_refusal(folder: Path, record: TrialRecord) -> None:
    trial_folder = TrialFolder(folder, record.number)
    if not record.rows:
        trial_folder.open(record.point)
    trial_folder.close(record.status, record.reason, record.kind)
    trial_folder.checkpoint.unlink(missing_ok=True)


def _memory_of_worker(config: StudyConfig, address: str | None) -> float:
    """Bytes of memory that a worker may use; infinite if another machine runs it."""
    resources = config.resources
    if resources.memory_gb_per_worker is not None:
        return resources.memory_gb_per_worker * 1e9
    if resources.gpus_per_worker:
        here = address is None and torch.cuda.is_available()
        return gpu_bytes(resources.gpus_per_worker) if here else math.inf
    if address is not None:
        return math.inf
    return memory_bytes() / (resources.trials_at_once * resources.workers_per_trial)


def _tuner(config: StudyConfig, folder: Path, search: Search, callbacks: list[tune.Callback]) -> tune.Tuner:
    resources = config.resources
    sources = share_sources(config)
    if resources.workers_per_trial == 1:
        trainable = tune.with_resources(
            tune.with_parameters(OneWorkerTrial, study=pack(config, config.plugins), folder=folder, sources=sources),
            {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker},
        )
    else:
        # Workers request their own resources; the process that waits for them needs almost none, but Ray refuses an
        # empty request: so one byte.
        trainable = tune.with_resources(
            tune.with_parameters(several_workers(config, folder), sources=sources), {"memory": 1}
        )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(search, folder),
            scheduler=StudyScheduler(search, folder),
            num_samples=-1,  # until the search ends
            max_concurrent_trials=resources.trials_at_once,
            reuse_actors=resources.workers_per_trial == 1,
            trial_name_creator=_tune_trial_name,
            trial_dirname_creator=_tune_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            progress_reporter=tune.CLIReporter(),  # silent; the default one clears the output of a notebook's cell
            storage_filesystem=LocalFileSystem(),  # a plain path, in which % and ? have no meaning
            failure_config=tune.FailureConfig(max_failures=0),  # Tune restarts no trial that ends before it has begun
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials write their own checkpoints
            callbacks=callbacks,
            verbose=0,
        ),
    )


def _tune_trial_name(trial: TuneTrial) -> str:
    return trial_name(trial.config["number"])
