"""Evaluate a run's encoder on the test split by a protocol."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cfamc_ray.config.data import DataConfig
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.config.types import Norm
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.evaluation.measurement import Measurement, corruption_accuracy, means_of
from cfamc_ray.formatting import format_quantity, format_radius
from cfamc_ray.lifecycle.evaluation_plan import Run
from cfamc_ray.lifecycle.evaluation_record import Evaluation, Strength, identity_of, published, record_path
from cfamc_ray.store.environment import environment
from cfamc_ray.terminal import Detail, ProgressView, say

if TYPE_CHECKING:
    import torch

    from cfamc_ray.evaluation.operating_points import OperatingPoint


def evaluate_run(
    run: Run, data: DataConfig, protocol: ProtocolConfig, device: "torch.device", *, out: Path | None, detail: Detail
) -> Evaluation:
    """Fit a head on the encoder, and measure both as the protocol says; nothing is written.

    Args:
        run: run whose encoder is evaluated.
        data: data set of the probe and the test.
        protocol: head, fine-tuning, corruptions, attacks and sample sizes.
        device: device of the computation.
        out: path of the record; by default evaluations/… in the trial's folder.
        detail: amount of progress output.
    """
    from cfamc_ray.data.splits import describe_test  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.evaluation.attacks import AttackInvalid  # noqa: PLC0415
    from cfamc_ray.training.precision import device_name  # noqa: PLC0415

    settings = identity_of(run, data, protocol)
    path = out or record_path(run, settings)
    say(f"{run.name}: protocol {protocol.name} on the test split of {data.location or data.name}", detail)
    if detail == "verbose":
        print(dump_yaml(settings["protocol"]), flush=True)
    started = time.perf_counter()
    measured: list[Measurement] = []
    points: list[OperatingPoint] = []
    losses: list[Sequence[float]] = []
    problem = ""
    try:
        with ProgressView("probe", 0, sys.stdout, detail=detail) as view:
            for measurement in measure(run, data, protocol, device, view, points.extend, losses.append):
                measured.append(measurement)
                if measurement.corruption is None or detail == "verbose":
                    draw = f"draw {measurement.draw + 1}, " if protocol.labels_per_class else ""
                    shown = format_quantity("fraction", measurement.accuracy)
                    view.say(f"  {draw}{_at(measurement.title, measurement.epsilon, protocol.norm)}: {shown}")
    except (AttackInvalid, FloatingPointError) as error:
        problem = str(error)
    seconds = time.perf_counter() - started
    strength, means = Strength.of(run, protocol, points), means_of(measured)
    record = {
        **settings,
        "device": device_name(device),
        "seconds": round(seconds, 1),
        "environment": environment(),
        "published": published(run, data),
        "test_sample": describe_test(data, images=protocol.images),
        "strength": strength and strength.record(),
        "finetuning_losses": losses,
        "results": [measurement.record() for measurement in measured],
        "means": [mean.record() for mean in means] if protocol.labels_per_class else None,
        "corruption_accuracy": corruption_accuracy(means),
        "problem": problem,
    }
    return Evaluation(run, data, measured, strength, problem, record, path, seconds)


def measure(
    run: Run,
    data: DataConfig,
    protocol: ProtocolConfig,
    device: "torch.device",
    view: ProgressView,
    on_curve: "Callable[[Sequence[OperatingPoint]], None]",
    on_losses: "Callable[[Sequence[float]], None]",
) -> Iterator[Measurement]:
    """Measure the encoder, and show the progress."""
    from cfamc_ray.evaluation.protocols import measure_on  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.method.encoder import load_encoder  # noqa: PLC0415
    from cfamc_ray.training.allocator import keep_freed_memory  # noqa: PLC0415
    from cfamc_ray.training.trainer import initial_encoder  # noqa: PLC0415

    keep_freed_memory()
    encoder = initial_encoder(run.trial) if run.encoder is None else load_encoder(run.encoder)
    return measure_on(
        data,
        encoder,
        protocol=protocol,
        crops=run.trial.crops,
        device=device,
        on_progress=lambda label, epsilon, done, total: view.move_to(
            done, what=_at(label, epsilon, protocol.norm), total=total
        ),
        on_curve=on_curve,
        on_losses=on_losses,
    )


def _at(label: str, epsilon: float, norm: Norm | None) -> str:
    """An attack and its radius in words."""
    return f"{label} at {format_radius(epsilon, norm)}" if epsilon else label
