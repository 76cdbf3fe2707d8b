"""The run of a study: Ray is started, trials are trained, and what they say is written down."""

import io
import json
import logging
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, Self, TextIO

import optuna
import ray
import torch
from pyarrow.fs import LocalFileSystem
from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import ResourceConfig, StudyConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.cost.work import training_work
from cfamc_ray.figures.charts import front_chart
from cfamc_ray.figures.static import draw
from cfamc_ray.front.front import Progress, find_front, progress_of
from cfamc_ray.host.files import DiskFullError, write_text
from cfamc_ray.host.machine import cores, memory_bytes
from cfamc_ray.host.process import heed_signals, is_command, logging_to, signals_restored
from cfamc_ray.orchestration.crashes import crash_reason
from cfamc_ray.orchestration.growing import require
from cfamc_ray.orchestration.images import share_sources
from cfamc_ray.orchestration.last_words import last_words
from cfamc_ray.orchestration.searcher import StudyScheduler, StudySearcher
from cfamc_ray.orchestration.trainables import OneWorkerTrial, several_workers
from cfamc_ray.orchestration.view import StudyView, output_to
from cfamc_ray.orchestration.watch import check_reachable, watched_ray
from cfamc_ray.search.search import Search
from cfamc_ray.search.storage import open_storage, repair_storage, stored_points
from cfamc_ray.store.environment import environment
from cfamc_ray.store.records import (
    ENVIRONMENT,
    TrialFolder,
    TrialRecord,
    read_trials,
    tabled_points,
    trial_name,
    write_config,
)
from cfamc_ray.store.repair import repair
from cfamc_ray.terminal import Detail
from cfamc_ray.training.allocator import gpu_bytes
from cfamc_ray.training.tensorboard import StudyEvents

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
FRONT_SECONDS = 10.0
LONGEST_FOLDER = 107 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""Bytes of the path of Ray's folder, for its longest socket to have a valid path."""
QUOTES = "'\"\\"


class View(Protocol):
    """What a person sees of a running study."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, progress: Progress, records: Sequence[TrialRecord]) -> None:
        """Draw how far it is, and what is new of the trials."""


def run_study(
    config: StudyConfig,
    folder: Path,
    *,
    address: str | None = None,
    detail: Detail = "normal",
    costs: CostModel | None = None,
    view_on: Callable[..., View] = StudyView,
) -> str:
    """Train trials until the study is over; those that began before go on from where they were.

    Args:
        config: of the study.
        folder: of the study; made if missing.
        address: of a running Ray cluster, ``auto`` or ``HOST:PORT``; None for the one that this process is connected
            to, or else one of this machine's own.
        detail: how much is said meanwhile.
        costs: what was measured elsewhere, for what the study's trials do not tell yet.
        view_on: what is shown of a config, on a stream that reaches the person, in a detail.

    Returns:
        why the study is over; empty after Ctrl-C.

    Raises:
        InputError: where the folder cannot be written, the cluster cannot be reached or is too small, or the storage
            holds another study.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, config)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _repair(config, folder)
    search = Search(
        config,
        open_storage(folder),
        read_trials(folder),
        work_of=training_work,
        memory_bytes=_memory_of_worker(config, address),
        costs=costs,
        on_refused=lambda record: _note_refusal(folder, record),
    )
    if reason := search.over:
        return reason
    with running_ray(config.resources, folder, address) as person, view_on(config, person, detail=detail) as view:
        _tuner(config, folder, search, _Watcher(search, folder, view)).fit()
    if search.halted:
        raise InputError(search.halted)
    return search.over if all(record.ended for record in search.records.values()) else ""


@contextmanager
def running_ray(resources: ResourceConfig, folder: Path, address: str | None) -> Iterator[TextIO]:
    """Ray, with what it says in the folder's ray.log; yields a stream that reaches the person.

    A command has the whole process's output there, and is told where Ray is lost. Any other process keeps its streams
    and its signals' handlers, and a Ray that it has started goes on after the end.

    Args:
        resources: that have to be there.
        folder: of the study.
        address: as for `run_study`.

    Raises:
        InputError: where the cluster cannot be reached or is too small, or the process is connected to another.
    """
    log = folder / "ray.log"
    if is_command():
        with output_to(log) as person, last_words(person, log):
            _start_ray(address)
            with watched_ray(address, person):
                _prepare(resources, folder, address, cluster=address is not None, person=person)
                yield person
        return
    lent = ray.is_initialized()
    with signals_restored(), logging_to(logging.FileHandler(log, encoding="utf-8"), name="ray"):
        if lent:
            _check_lent(address)
        else:
            _start_ray(address)
        try:
            cluster = lent or address is not None
            _prepare(resources, folder, address, cluster=cluster, person=io.StringIO())
            yield sys.stdout
        finally:
            if not lent:
                ray.shutdown()


def _prepare(resources: ResourceConfig, folder: Path, address: str | None, *, cluster: bool, person: TextIO) -> None:
    require(resources, cluster=cluster, person=person)
    write_text(folder / ENVIRONMENT, json.dumps(environment() | _cluster(address), indent=1) + "\n")


def _check_lent(address: str | None) -> None:
    """Refuse another cluster than the one that this process is connected to."""
    connected = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", connected):
        raise InputError(
            f"address {address}: this process is connected to Ray at {connected}; leave the address out to use that, "
            "or call ray.shutdown() first"
        )


def _repair(config: StudyConfig, folder: Path) -> None:
    """Set aside what is damaged, and say so."""
    done = repair(folder, lambda: {**tabled_points(config, folder), **stored_points(config, folder)})
    for line in done + repair_storage(config, folder, read_trials(folder)):
        logger.warning(line)


def _note_refusal(folder: Path, record: TrialRecord) -> None:
    trial_folder = TrialFolder(folder, record.number)
    if not record.rows:
        trial_folder.open(record.point)
    trial_folder.close(record.status, record.reason)
    trial_folder.checkpoint.unlink(missing_ok=True)


def _memory_of_worker(config: StudyConfig, address: str | None) -> float:
    """Bytes that a worker may use; infinite where another machine will run it."""
    resources = config.resources
    if resources.memory_gb_per_worker is not None:
        return resources.memory_gb_per_worker * 1e9
    if resources.gpus_per_worker:
        here = address is None and torch.cuda.is_available()
        return gpu_bytes(resources.gpus_per_worker) if here else math.inf
    if address is not None:
        return math.inf
    return memory_bytes() / (resources.trials_at_once * resources.workers_per_trial)


def _start_ray(address: str | None) -> None:
    if address not in (None, "auto"):
        check_reachable(str(address))
    alone = {"include_dashboard": False, "num_cpus": cores(), "_temp_dir": _ray_folder()} if address is None else {}
    try:
        ray.init(
            address=address or "local",  # with None Ray would join whatever cluster runs on this machine
            log_to_driver=False,
            runtime_env={"env_vars": {name: os.environ[name] for name in ("CFAMC_DATA",) if name in os.environ}},
            **alone,
        )
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        heed_signals()
        signal.raise_signal(signal.SIGTERM)
    except Exception as error:
        ray.shutdown()
        why = " ".join(str(error).split()) or type(error).__name__
        if address is not None:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({why}); where one asks for a token, "
                "RAY_AUTH_MODE=token sends it"
            ) from None
        raise InputError(
            f"Ray cannot start on this machine ({why}): it needs room in {_ray_folder()} (another folder: RAY_TMPDIR) "
            "and in /dev/shm, and a port to listen at"
        ) from None
    heed_signals()


def _ray_folder() -> str:
    """Where Ray keeps its sockets and logs: not every TMPDIR will do.

    A socket's path must not exceed 107 bytes, and Ray takes no quotes and no letters beyond ASCII.
    """
    wanted = str(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray").absolute())  # noqa: S108
    fits = len(wanted) <= LONGEST_FOLDER and wanted.isascii() and not {*wanted} & {*QUOTES}
    return wanted if fits else f"/tmp/ray-{os.getuid()}"  # noqa: S108


def _tuner(config: StudyConfig, folder: Path, search: Search, watcher: "_Watcher") -> tune.Tuner:
    resources = config.resources
    sources = share_sources(config)
    if resources.workers_per_trial == 1:
        trainable = tune.with_resources(
            tune.with_parameters(OneWorkerTrial, study=config, folder=folder, sources=sources),
            {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker},
        )
    else:
        # The workers take what they need from the cluster; the process that waits for them needs next to nothing, but
        # Ray refuses a request for nothing: so one byte.
        trainable = tune.with_resources(
            tune.with_parameters(several_workers(config, folder), sources=sources), {"memory": 1}
        )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(search, folder),
            scheduler=StudyScheduler(search, folder),
            num_samples=-1,  # until the search has no more
            max_concurrent_trials=resources.trials_at_once,
            reuse_actors=resources.workers_per_trial == 1,
            trial_name_creator=_tune_trial_name,
            trial_dirname_creator=_tune_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            progress_reporter=tune.CLIReporter(),  # silent; the default one clears the output of a notebook's cell
            storage_filesystem=LocalFileSystem(),  # a path, in which % and ? mean nothing
            failure_config=tune.FailureConfig(max_failures=0),  # Tune restarts no trial that ends before it has begun
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
            callbacks=[watcher],
            verbose=0,
        ),
    )


def _tune_trial_name(trial: TuneTrial) -> str:
    return trial_name(trial.config["number"])


class _Watcher(tune.Callback):
    """Keeps the view up to date, and has trials whose process was lost started again."""

    def __init__(self, search: Search, folder: Path, view: View) -> None:
        self.search, self.config, self.folder, self.view = search, search.config, folder, view
        self.losses: Counter[int] = Counter()
        self.known = {record.number: record for record in read_trials(folder)}
        self.ended_before = sum(record.ended and record.counts for record in self.records)
        self.started, self.shown = time.monotonic(), 0.0
        self.finished, self.drawn = -1, -math.inf
        self.events = StudyEvents(folder, first_step=self._finished())

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune's snapshot of a run is not what a study resumes from."""
        return {}

    def on_step_end(self, iteration: int, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Draw, at most once a second; the front for TensorBoard more seldom, for that takes longer."""
        if time.monotonic() - self.shown >= REFRESH_SECONDS:
            self._show()
        if time.monotonic() - self.drawn >= FRONT_SECONDS:
            self._draw_front()

    def on_trial_start(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Count it."""
        self._reread(trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take in a new row."""
        self._reread(trial)

    def on_trial_error(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Start it again, from its last epoch; where that was done often enough, note the reason."""
        number = trial.config["number"]
        trial_folder = TrialFolder(self.folder, number)
        record = trial_folder.read() or TrialRecord(number, trial.config["point"])
        error = _error_of(trial)
        if _met_a_full_disk(error):
            self.search.halted = f"{self.folder}: the disk is full; make room there, then go on with --resume"
            return
        self.losses[number] += 1
        if not record.ended and self.losses[number] <= self.config.resources.restarts:
            self.search.again(record)
        elif not record.ended:
            reason = _reason(error, trial_folder)
            trial_folder.open(record.point)
            trial_folder.close("failed", reason)
            self.search.ended(replace(record, status="failed", reason=reason))
        self._reread(trial)

    def on_experiment_end(self, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Draw the end."""
        self._show()
        self._draw_front()
        self.events.close()

    @property
    def records(self) -> list[TrialRecord]:
        """Of all trials so far, by number."""
        return [self.known[number] for number in sorted(self.known)]

    def _finished(self) -> int:
        return sum(record.status == "finished" for record in self.records)

    def _draw_front(self) -> None:
        """For TensorBoard, where another trial has finished."""
        self.drawn = time.monotonic()
        if self._finished() != self.finished:
            self.finished = self._finished()
            front = find_front(self.config, self.records)
            chart = front_chart(front, title=self.config.question or self.config.name)
            self.events.write(self.finished, front.hypervolume, draw(chart))

    def _reread(self, trial: TuneTrial) -> None:
        number = trial.config["number"]
        record = TrialFolder(self.folder, number).read() or TrialRecord(number, trial.config["point"])
        self.known[number] = record

    def _show(self) -> None:
        self.shown = time.monotonic()
        seconds = self.shown - self.started
        records = self.records
        progress = progress_of(self.config, records, seconds=seconds, ended_before=self.ended_before)
        self.view.show(progress, records)


def _error_of(trial: TuneTrial) -> Exception | None:
    """What ended a trial; `get_error` would look in the study's folder, into which Tune copies it later."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())  # type: ignore[no-any-return]
    except (OSError, TypeError, ValueError, EOFError, UnpicklingError):
        return None


def _met_a_full_disk(error: Exception | None) -> bool:
    """Whether a trial's process, or one of its workers, ended because there was no room for its files."""
    cause = getattr(error, "cause", None)
    return any(isinstance(each, DiskFullError) for each in (cause, *getattr(cause, "worker_failures", {}).values()))


def _reason(error: Exception | None, folder: TrialFolder) -> str:
    """Why a trial's process ended: what Python raised there, or what it said when it crashed."""
    if isinstance(error, RayTaskError):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"its process ended: {lines[-1]}"
    return crash_reason(folder)


def _cluster(address: str | None) -> dict[str, Any]:
    resources = {name: amount for name, amount in ray.cluster_resources().items() if ":" not in name}
    return {"ray cluster": address or "of this machine", "resources": resources}
