"""All that a scaling study says of the machine: models of time and memory, of communication, and both in sentences."""

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

PREDICTED_WORKERS = (2, 4, 8, 16, 32, 64, 128, 256, 512)
TOLD_WORKERS = (8, 64, 512)
"""In sentences."""
SECONDS_PER = ("flop", "activation", "updated_parameter", "update")
BYTES_PER = ("process", "kept_activation", "parameter")
FEWEST = len(SECONDS_PER) + 2
"""Cells that a model needs: one of them is left out, and the others are not to be met exactly."""


class Costs(NamedTuple):
    """Models of one arithmetic on one kind of worker."""

    precision: str
    configured: Sequence[str]
    """As the cells' configs name it: `auto`, where that was chosen."""
    device: str
    threads: int
    cells: int
    seconds_per: Coefficients
    bytes_per: Coefficients
    left_out: Mapping[str, float]
    """Median relative error of seconds and bytes of each cell from a fit to all others."""
    larger_half: Mapping[str, float]
    """The same of the half with the larger minibatches, in pixels, from the other half."""

    def describes(self, one: Measured) -> bool:
        """Whether a cell is one of those that this was fitted to."""
        return (one.cell.workers, *one.arithmetic) == (1, self.precision, self.device)


class SystemFits(NamedTuple):
    """All that the system part says."""

    costs: Sequence[Costs]
    communication: Sequence[tuple[Measured, Communication, Sequence[Efficiency]]]
    """Of each cell of several workers."""


def fit_system(measured: Sequence[Measured]) -> SystemFits:
    """Everything that the measured cells allow."""
    alone: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        if one.cell.workers == 1:
            alone.setdefault(one.arithmetic, []).append(one)
    together = [one for one in measured if one.cell.workers > 1]
    return SystemFits(
        [_costs(cells) for cells in alone.values() if len(cells) >= FEWEST],
        [
            (one, fit_communication(one.cell.workers, one.found["sums"]), predict_efficiency(one, PREDICTED_WORKERS))
            for one in together
        ],
    )


def predicted(costs: Costs, one: Measured) -> tuple[float, float]:
    """Seconds of an update and peak bytes of a cell of one worker."""
    return predict(costs.seconds_per, _of_update(one)), predict(costs.bytes_per, _of_process(one))


def _costs(cells: Sequence[Measured]) -> Costs:
    first = cells[0].found
    ordered = sorted(cells, key=_pixels)
    half = len(ordered) // 2
    return Costs(
        precision=first["precision"],
        configured=sorted({one.cell.trial.pretraining.precision for one in cells}),
        device=first["device"],
        threads=first["threads"],
        cells=len(cells),
        seconds_per=_fit_seconds(cells),
        bytes_per=_fit_bytes(cells),
        left_out=_errors([([*ordered[:n], *ordered[n + 1 :]], [ordered[n]]) for n in range(len(ordered))]),
        larger_half=_errors([(ordered[:half], ordered[half:])]),
    )


def _errors(parts: Sequence[tuple[Sequence[Measured], Sequence[Measured]]]) -> dict[str, float]:
    """Median relative errors of cells from fits to others."""
    found: dict[str, list[float]] = {"seconds": [], "bytes": []}
    for known, unknown in parts:
        seconds_per, bytes_per = _fit_seconds(known), _fit_bytes(known)
        for one in unknown:
            found["seconds"].append(abs(predict(seconds_per, _of_update(one)) / one.update_seconds - 1))
            found["bytes"].append(abs(predict(bytes_per, _of_process(one)) / _bytes(one) - 1))
    return {name: statistics.median(errors) for name, errors in found.items()}


def _fit_seconds(cells: Sequence[Measured]) -> Coefficients:
    """The optimizer and all else by themselves, for few cells tell a large network's updates from its arithmetic.

    A FLOP takes no longer than in a large matrix product: what does is waiting for memory. Without that, cells of one
    width, where FLOPs and activations grow together, would leave open which of them costs the time.
    """
    updating = [one.phase_shares["optimizer"] for one in cells]
    parts = (
        (("updated_parameter", "update"), updating),
        (("activation", "flop", "update"), [1 - share for share in updating]),
    )
    fastest = {"flop": 1 / statistics.median(one.product_rate for one in cells)}
    found = dict.fromkeys(SECONDS_PER, 0.0)
    for names, shares in parts:
        amounts = [{name: _of_update(one)[name] for name in names} for one in cells]
        seconds = [share * one.update_seconds for share, one in zip(shares, cells, strict=True)]
        for name, value in (fit_coefficients(amounts, seconds, at_most=fastest) or {}).items():
            found[name] += value
    return found


def _fit_bytes(cells: Sequence[Measured]) -> Coefficients:
    return fit_coefficients([_of_process(one) for one in cells], [_bytes(one) for one in cells]) or {}


def _of_update(one: Measured) -> dict[str, float]:
    """What the seconds of an update grow with; nothing is evaluated."""
    flops, activations = (float(one.found[name] / one.found["updates"]) for name in ("flops", "activations"))
    return {
        "flop": flops,
        "activation": activations,
        "updated_parameter": float(one.found["parameters"]),
        "update": 1.0,
    }


def _of_process(one: Measured) -> dict[str, float]:
    """What its memory grows with."""
    kept, parameters = float(one.found["kept"]), float(one.found["parameters"])
    return {"process": 1.0, "kept_activation": kept, "parameter": parameters}


def _pixels(one: Measured) -> int:
    trial = one.cell.trial
    return trial.crops.views * trial.pretraining.batch_images * trial.crops.size**2


def _bytes(one: Measured) -> float:
    return float(one.found["peak_memory_bytes"])


def read_costs(path: Path, study: StudyConfig, work_of: WorkOf) -> CostModel:
    """The model that fits a study's trials, from a scaling study's fits.

    Args:
        path: of the scaling study's folder, or of its fits.json.
        study: whose arithmetic, device and threads decide which model that is.
        work_of: what a trial comes to.

    Raises:
        InputError: where there is no such model.
    """
    file = path / "fits.json" if path.is_dir() else path
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
    """The fits as fits.json holds them."""
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
    """What the system part found, in sentences with numbers."""
    found = []
    for costs in fits.costs:
        errors = [f"{error:.0%}" for part in (costs.left_out, costs.larger_half) for error in part.values()]
        found.append(
            f"On {costs.device} in {costs.precision}, {costs.cells} cells: a cell that was left out is predicted to "
            f"{errors[0]} in time and {errors[1]} in memory (median), the half with larger minibatches from the other "
            f"to {errors[2]} and {errors[3]}."
        )
    by_efficiency = sorted(fits.communication, key=lambda each: each[0].weak_efficiency or 0.0)
    for one, _, efficiencies in by_efficiency[:1] + by_efficiency[1:][-1:]:  # the least and the most efficient
        predictions = ", ".join(_told(each) for each in efficiencies if each.workers in TOLD_WORKERS)
        weak, communication = one.weak_efficiency or 0.0, one.communication_share or 0.0
        found.append(
            f"{one.cell.workers} workers, {one.cell.trial.crops.views} crops of "
            f"{one.cell.trial.pretraining.batch_images} images, width {one.cell.trial.encoder.width}: weak efficiency "
            f"{weak:.1%}; the sum of the gradients takes {communication:.1%} of the time, what the workers share "
            f"(memory, cache, embeddings, waiting for the slowest) {1 - weak - communication:.1%}. Predicted from "
            f"the constants measured here, each worker on a machine of its own: {predictions}."
        )
    return found or ["Too few cells have been measured to say anything of the machine."]


def _told(efficiency: Efficiency) -> str:
    hidden = efficiency.expected - efficiency.exposed
    least = f" ({efficiency.exposed:.0%} where no sum hides behind arithmetic)" if hidden > 0.005 else ""
    return f"{efficiency.expected:.0%} with {efficiency.workers}{least}"
