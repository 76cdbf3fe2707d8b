"""Models of the machine from a scaling study: time, memory and communication, and the conclusions from them."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.model import (
    Coefficients,
    CostModel,
    WorkOf,
    fit_coefficients,
    predict,
)
from cfamc_ray.scaling.communication import Communication, Efficiency, fit_communication, predict_efficiency
from cfamc_ray.store.cells import Measured
from cfamc_ray.store.layout import FITS

PREDICTED_WORKERS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
SHOWN_WORKERS = (8, 64, 512)
"""Of these, the numbers of workers in the conclusions."""
SECONDS_PER = ("flop", "activation", "updated_parameter", "update")
BYTES_PER = ("process", "kept_activation", "parameter")
FEWEST = len(SECONDS_PER) + 2
"""Cells that a model needs: one is left out, and the others are still more than the coefficients."""


class Costs(NamedTuple):
    """Models of time and memory for one precision on one device."""

    precision: str
    configured: Sequence[str]
    """The precision as the cells' configs name it, such as `auto`."""
    device: str
    threads: int
    cells: int
    seconds_per: Coefficients
    bytes_per: Coefficients
    left_out: Mapping[str, float]
    """Median relative error of the seconds and bytes of each cell, predicted by a fit to all others."""
    larger_half: Mapping[str, float]
    """The same for the half with the larger minibatches (in pixels), predicted by a fit to the other half."""

    def describes(self, one: Measured) -> bool:
        """Whether this was fitted to a cell."""
        return (one.cell.workers, *one.arithmetic) == (1, self.precision, self.device)


class SystemFits(NamedTuple):
    """All fits of the system part."""

    costs: Sequence[Costs]
    communication: Sequence[tuple[Measured, Communication, Sequence[Efficiency]]]
    """For each cell of several workers."""


def fit_system(measured: Sequence[Measured]) -> SystemFits:
    """All fits that the measured cells allow."""
    alone: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        if one.cell.workers == 1:
            alone.setdefault(one.arithmetic, []).append(one)
    together = [one for one in measured if one.cell.workers > 1]
    return SystemFits(
        [_costs(cells) for cells in alone.values() if len(cells) >= FEWEST],
        [
            (one, fit_communication(one.cell.workers, one.values.sums), predict_efficiency(one, PREDICTED_WORKERS))
            for one in together
        ],
    )


def predicted(costs: Costs, one: Measured) -> tuple[float, float]:
    """Predicted seconds of an update and peak bytes of a cell of one worker."""
    return predict(costs.seconds_per, _of_update(one)), predict(costs.bytes_per, _of_process(one))


def _costs(cells: Sequence[Measured]) -> Costs:
    first = cells[0].values
    ordered = sorted(cells, key=_pixels)
    half = len(ordered) // 2
    return Costs(
        precision=first.precision,
        configured=sorted({one.cell.trial.pretraining.precision for one in cells}),
        device=first.device,
        threads=first.threads,
        cells=len(cells),
        seconds_per=_fit_seconds(cells),
        bytes_per=_fit_bytes(cells),
        left_out=_errors([([*ordered[:n], *ordered[n + 1 :]], [ordered[n]]) for n in range(len(ordered))]),
        larger_half=_errors([(ordered[:half], ordered[half:])]),
    )


def _errors(parts: Sequence[tuple[Sequence[Measured], Sequence[Measured]]]) -> dict[str, float]:
    """Median relative errors of cells that are predicted by fits to other cells."""
    errors: dict[str, list[float]] = {"seconds": [], "bytes": []}
    for fitted, held_out in parts:
        seconds_per, bytes_per = _fit_seconds(fitted), _fit_bytes(fitted)
        for one in held_out:
            errors["seconds"].append(abs(predict(seconds_per, _of_update(one)) / one.update_seconds - 1))
            errors["bytes"].append(abs(predict(bytes_per, _of_process(one)) / one.values.peak_memory_bytes - 1))
    return {name: statistics.median(each) for name, each in errors.items()}


def _fit_seconds(cells: Sequence[Measured]) -> Coefficients:
    """Fit the optimizer's time and the other time separately: few cells would distinguish them in a single fit.

    A FLOP is bounded by its time in a large matrix product; the rest is time for memory access. Without this bound the
    cells of one width, where FLOPs and activations grow together, would not determine both coefficients.
    """
    updating = [one.phase_shares["optimizer"] for one in cells]
    parts = (
        (("updated_parameter", "update"), updating),
        (("activation", "flop", "update"), [1 - share for share in updating]),
    )
    fastest = {"flop": 1 / statistics.median(one.values.product_flops_per_second for one in cells)}
    coefficients = dict.fromkeys(SECONDS_PER, 0.0)
    for names, shares in parts:
        amounts = [{name: _of_update(one)[name] for name in names} for one in cells]
        seconds = [share * one.update_seconds for share, one in zip(shares, cells, strict=True)]
        for name, value in (fit_coefficients(amounts, seconds, at_most=fastest) or {}).items():
            coefficients[name] += value
    return coefficients


def _fit_bytes(cells: Sequence[Measured]) -> Coefficients:
    return fit_coefficients([_of_process(one) for one in cells], [one.values.peak_memory_bytes for one in cells]) or {}


def _of_update(one: Measured) -> dict[str, float]:
    """Amounts that determine the time of an update, without evaluation."""
    values = one.values
    return {
        "flop": values.flops / values.updates,
        "activation": values.activations / values.updates,
        "updated_parameter": float(values.parameters),
        "update": 1.0,
    }


def _of_process(one: Measured) -> dict[str, float]:
    """Amounts that determine the memory of a process."""
    return {"process": 1.0, "kept_activation": one.values.kept, "parameter": float(one.values.parameters)}


def _pixels(one: Measured) -> int:
    trial = one.cell.trial
    return trial.crops.views * trial.pretraining.batch_images * trial.crops.size**2


def read_costs(path: Path, study: StudyConfig, work_of: WorkOf) -> CostModel:
    """The cost model for a study's trials, from a scaling study's fits.

    Args:
        path: of the scaling study's folder, or of its fits.json.
        study: its precision, device and threads select the model.
        work_of: gives the work of a trial.

    Raises:
        InputError: where the fits hold no model for the study.
    """
    file = path / FITS if path.is_dir() else path
    try:
        every = TypeAdapter(list[Costs]).validate_python(json.loads(file.read_text(encoding="utf-8"))["costs"])
        if not all({*one.seconds_per} <= {*SECONDS_PER} and {*one.bytes_per} <= {*BYTES_PER} for one in every):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"--costs {path}: no fits of a scaling study's system part can be read there") from None
    precision, resources = study.trial.pretraining.precision, study.resources
    kind = "GPUs" if resources.gpus_per_worker else f"CPUs, {resources.cpus_per_worker} threads a worker"
    for costs in every:
        on_cpu = costs.device.startswith("CPU")
        alike = not on_cpu if resources.gpus_per_worker else on_cpu and costs.threads == resources.cpus_per_worker
        if alike and precision in (costs.precision, *costs.configured):
            return CostModel(work_of, resources.workers_per_trial, costs.seconds_per, costs.bytes_per)
    known = "; ".join(f"{costs.device}, {costs.precision}" for costs in every) or "nothing"
    raise InputError(
        f"--costs {path}: holds no model for {kind} with pretraining.precision {precision}, but of {known}"
    )


def system_tree(fits: SystemFits) -> dict[str, Any]:
    """The fits of the system part, as in fits.json."""
    return {
        "costs": [one._asdict() for one in fits.costs],
        "communication": [
            {
                "cell": one.cell.name,
                "workers": one.cell.workers,
                **constants._asdict(),
                "weak_efficiency": {
                    "measured": one.weak_efficiency,
                    "communication_share": one.communication_share,
                    "predicted": [each._asdict() for each in efficiencies],
                },
            }
            for one, constants, efficiencies in fits.communication
        ],
    }


def system_conclusions(fits: SystemFits) -> list[str]:
    """What the system part shows, in sentences with numbers."""
    sentences = []
    for costs in fits.costs:
        errors = [f"{error:.0%}" for part in (costs.left_out, costs.larger_half) for error in part.values()]
        sentences.append(
            f"On {costs.device} in {costs.precision}, {costs.cells} cells: the model predicts a cell that was left "
            f"out with a median error of {errors[0]} in time and {errors[1]} in memory, and the half with larger "
            f"minibatches from the other half with {errors[2]} and {errors[3]}."
        )
    by_efficiency = sorted(fits.communication, key=lambda each: each[0].weak_efficiency or 0.0)
    for one, _, efficiencies in by_efficiency[:1] + by_efficiency[1:][-1:]:  # the least and the most efficient
        predictions = ", ".join(_prediction(each) for each in efficiencies if each.workers in SHOWN_WORKERS)
        weak, communication = one.weak_efficiency or 0.0, one.communication_share or 0.0
        sentences.append(
            f"{one.cell.workers} workers, {one.cell.trial.crops.views} crops of "
            f"{one.cell.trial.pretraining.batch_images} images, width {one.cell.trial.encoder.width}: weak efficiency "
            f"{weak:.1%}; the all-reduce of the gradients takes {communication:.1%} of the time, and contention "
            f"(memory, cache, embeddings, waiting for the slowest worker) {1 - weak - communication:.1%}. Predicted "
            f"weak efficiency from the latency and bandwidth measured here, a machine for each worker: {predictions}."
        )
    return sentences or ["Too few cells have been measured to say anything of the machine."]


def _prediction(efficiency: Efficiency) -> str:
    hidden = efficiency.expected - efficiency.exposed
    least = f" ({efficiency.exposed:.0%} without overlap of communication and computation)" if hidden > 0.005 else ""
    return f"{efficiency.expected:.0%} with {efficiency.workers}{least}"
