"""Confirm a front: train its points again with fresh seeds, as a separate study, and test them; both can resume."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import describe_test
from cfamc_ray.evaluation.attacks import AttackInvalid
from cfamc_ray.evaluation.protocols import measure_on
from cfamc_ray.front.finalists import confirming_study, untested_strengths
from cfamc_ray.method.encoder import load_encoder
from cfamc_ray.orchestration.crashes import NOTHING_SAID
from cfamc_ray.orchestration.growing import SizeWatch
from cfamc_ray.orchestration.images import SharedSources, share_sources, take_sources
from cfamc_ray.orchestration.packing import Packed, pack
from cfamc_ray.orchestration.run import run_study
from cfamc_ray.orchestration.session import running_ray
from cfamc_ray.store.layout import CONFIRM, trial_name
from cfamc_ray.store.records import TrialFolder, read_trials
from cfamc_ray.store.repair import renew_untested
from cfamc_ray.store.tested import PointTest
from cfamc_ray.terminal import Detail, ProgressView
from cfamc_ray.training.allocator import keep_freed_memory, use_device, worker_device
from cfamc_ray.training.recording import out_of_memory

logger = logging.getLogger(__name__)


def run_confirmation(
    config: StudyConfig, folder: Path, *, address: str | None = None, detail: Detail = "normal"
) -> bool:
    """Train every candidate with every fresh seed and test it at its operating points; existing results are kept.

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
    for line in renew_untested(inner, untested_strengths(config, folder)):
        logger.warning(line)
    if not run_study(fresh, inner, address=address, detail=detail):
        return False
    if untested := untested_strengths(config, folder):
        _test(fresh, inner, untested, address, detail)
    return True


def _test(
    fresh: StudyConfig,
    folder: Path,
    untested: Mapping[int, Sequence[float | None]],
    address: str | None,
    detail: Detail,
) -> None:
    """Attack the encoders at their operating points, as many at once as resources allow."""
    resources = fresh.resources
    test = ray.remote(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=resources.restarts
    )(test_encoder)
    points = [(number, l2) for number, strengths in untested.items() for l2 in strengths]
    with (
        running_ray(fresh.resources, folder, address) as person,
        ProgressView("tested", len(points), person, detail=detail) as view,
    ):
        sources, packed = share_sources(fresh), pack(fresh, fresh.plugins)
        waiting = {test.remote(packed, folder, number, l2, sources): (number, l2) for number, l2 in points}
        failures: list[RayTaskError] = []
        watch = SizeWatch(resources, 1, view.say)
        while waiting:
            done = watch.wait(list(waiting))
            number, l2 = waiting.pop(done)
            strength = "" if l2 is None else f" with L2 {l2:g}"
            try:
                tested = ray.get(done)
            except RayTaskError as error:
                failures.append(error)
                view.say(f"testing {trial_name(number)}{strength} failed, {len(waiting)} to go")
                continue
            except RayError:  # its process was lost, more often than resources.restarts
                view.say(f"{trial_name(number)}{strength} was not tested: {NOTHING_SAID}; --resume tests it again")
                continue
            TrialFolder(folder, number).add_test(tested)
            problem = f": {tested.problem}" if tested.problem else ""
            view.say(f"tested {trial_name(number)}{strength}, {len(waiting)} to go{problem}")
            view.advance()
        if failures:
            raise failures[0]  # once the others are done, which may have taken hours


def test_encoder(
    study: Packed[StudyConfig], folder: Path, number: int, l2: float | None, sources: SharedSources
) -> PointTest:
    """Evaluate one encoder at one operating point; a problem is noted if its accuracies cannot be trusted."""
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
    protocol = fresh.confirm.protocol(trial.evaluation, l2)
    judged_on = trial.judged_on
    if trial.evaluation.transfer:  # of which no image is used for pretraining
        judged_on = judged_on.model_copy(update={"pretrain_images": 0})
    sample = describe_test(judged_on, images=protocol.images)
    accuracies: dict[str, float] = {}
    try:
        for measurement in measure_on(
            judged_on,
            load_encoder(trial_folder.encoder),
            protocol=protocol,
            crops=trial.crops,
            device=device,
        ):
            accuracies[measurement.attack] = measurement.accuracy
    except Exception as error:
        doubted = isinstance(error, AttackInvalid | FloatingPointError)
        problem = str(error) if doubted else out_of_memory(error)
        if not problem:
            raise
        return PointTest(l2, sample, accuracies, problem, protocol.digest)
    return PointTest(l2, sample, accuracies, protocol=protocol.digest)
