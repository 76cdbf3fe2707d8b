"""Confirm a front: train its points again with fresh seeds, as a separate study, and test them; both can resume."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import describe_test
from cfamc_ray.evaluation.attacks import AttackInvalid
from cfamc_ray.evaluation.protocols import measure_on
from cfamc_ray.front.finalists import confirming_study
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.orchestration.images import SharedSources, share_sources, take_sources
from cfamc_ray.orchestration.packing import Packed, pack
from cfamc_ray.orchestration.run import run_study
from cfamc_ray.orchestration.session import running_ray
from cfamc_ray.store.layout import CONFIRM
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials
from cfamc_ray.store.repair import renew_untested
from cfamc_ray.terminal import Detail, ProgressView
from cfamc_ray.training.allocator import keep_freed_memory, use_device, worker_device
from cfamc_ray.training.recording import out_of_memory

logger = logging.getLogger(__name__)


def run_confirmation(
    config: StudyConfig, folder: Path, *, address: str | None = None, detail: Detail = "normal"
) -> bool:
    """Train and test every candidate with every fresh seed; existing results are kept.

    Args:
        config: config of the study whose front is confirmed; `confirm` must be set.
        folder: folder of that study.
        address: address of a running Ray cluster, as in `run_study`.
        detail: amount of progress output.

    Returns:
        Whether everything is done; False after Ctrl-C.
    """
    assert config.confirm is not None
    inner = folder / CONFIRM
    fresh = confirming_study(config, read_trials(folder), read_trials(inner))
    if fresh is None:
        return True
    for line in renew_untested(inner):
        logger.warning(line)
    if not run_study(fresh, inner, address=address, detail=detail):
        return False
    untested = [
        record
        for record in read_trials(inner)
        if record.status == "finished" and TrialFolder(inner, record.number).read_test() is None
    ]
    if untested:
        _test(fresh, inner, untested, address, detail)
    return True


def _test(
    fresh: StudyConfig, folder: Path, records: Sequence[TrialRecord], address: str | None, detail: Detail
) -> None:
    """Attack the encoders, as many at once as resources allow."""
    resources = fresh.resources
    test = ray.remote(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=resources.restarts
    )(test_encoder)
    with (
        running_ray(fresh.resources, folder, address) as person,
        ProgressView("tested", len(records), person, detail=detail) as view,
    ):
        sources, packed = share_sources(fresh), pack(fresh, fresh.plugins)
        waiting = {test.remote(packed, folder, record.number, sources): record for record in records}
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            record = waiting.pop(done)
            view.say(f"tested {record.trial_id}, {len(waiting)} to go{ray.get(done)}")
            view.advance()


def test_encoder(study: Packed[StudyConfig], folder: Path, number: int, sources: SharedSources) -> str:
    """Evaluate one encoder and write its accuracies; return a remark if they cannot be trusted."""
    fresh = study.unpack()
    assert fresh.confirm is not None
    take_sources(sources)
    torch.set_num_threads(fresh.resources.cpus_per_worker)
    device = worker_device(fresh.resources)
    use_device(device, fresh.resources.gpus_per_worker)
    keep_freed_memory()
    trial_folder = TrialFolder(folder, number)
    record = trial_folder.read()
    assert record is not None
    trial = fresh.trial_at(record.point)
    protocol = fresh.confirm.protocol(trial.evaluation)
    values: dict[str, Any] = {"test_sample": describe_test(trial.judged_on, images=protocol.images)}
    try:
        for measurement in measure_on(
            trial.judged_on,
            load_encoder(trial_folder.encoder),
            protocol=protocol,
            crops=trial.crops,
            device=device,
        ):
            values[measurement.attack] = measurement.accuracy
    except Exception as error:
        doubted = isinstance(error, AttackInvalid | FloatingPointError)
        values["problem"] = str(error) if doubted else out_of_memory(error)
        if not values["problem"]:
            raise
    trial_folder.write_test(values)
    return f": {values['problem']}" if "problem" in values else ""
