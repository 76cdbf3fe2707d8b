"""Every metric once: what it measures, in which unit, which direction is better, and what it is called.

A metric is a number that a trial reports after each epoch: a column of ``epochs.jsonl``. Objectives, tables, figures,
TensorBoard and the report ask here how to treat it. A plugin adds one of its own, such as a term of its loss:

    register_metric(Metric("alignment", "alignment of the views", "number", role="result", direction="maximize"))
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Direction = Literal["maximize", "minimize"]
Unit = Literal["fraction", "seconds", "bytes", "passes", "FLOPs", "count", "pixels", "number"]
"""A fraction runs from 0 to 1 and is written in per cent; pixels from 0 to 1 too, and are written in grey levels of
255; seconds are written as a duration; bytes, passes, FLOPs and counts with k, M, G; numbers as they are."""
Role = Literal["result", "cost", "diagnostic"]


@dataclass(frozen=True)
class Metric:
    """A number that a trial reports."""

    name: str
    """Column of ``epochs.jsonl`` and of tables, key of ``objectives``."""
    label: str
    """What a person reads, without its unit."""
    unit: Unit
    role: Role = "diagnostic"
    """A result says how good the encoder is; a cost says what that took and stands in every table; a diagnostic is
    shown in TensorBoard alone."""
    direction: Direction | None = None
    """Which values are better; diagnostics need none."""
    tag: str | None = None
    """Name in TensorBoard, as in ``accuracy/clean``; None: ``metrics/LABEL``; empty: it is not shown there."""
    images: str | None = None
    """Column with the number of validation images of which this is a fraction; None for what is no such fraction."""
    planned: bool = False
    """Whether it is known before a trial runs, from its config, and grows evenly with the epochs."""

    def __post_init__(self) -> None:
        if self.role != "diagnostic" and self.direction is None:
            raise ValueError(f"metric {self.name!r}: a {self.role} needs a direction, maximize or minimize")

    @property
    def objective(self) -> bool:
        """Whether a study may optimise it. Seconds are reported, not optimised: they depend on what else runs."""
        return self.role != "diagnostic" and self.unit != "seconds"

    @property
    def scalar(self) -> str:
        """Name in TensorBoard; empty where it is not shown there."""
        return f"metrics/{self.label}" if self.tag is None else self.tag


METRICS: dict[str, Metric] = {}
"""By name. Filled below, and by `register_metric`."""


def register_metric(metric: Metric) -> Metric:
    """Make a metric known by its name.

    Raises:
        ValueError: where another metric has this name, or where it claims to be known before a trial runs, which holds
            for crop passes and FLOPs alone.
    """
    known = METRICS.get(metric.name)
    if known not in (None, metric):
        raise ValueError(f"there is a metric {metric.name!r} already, another one: {known}")
    if metric.planned and known is None:
        raise ValueError(f"metric {metric.name!r}: only crop passes and FLOPs are known before a trial runs")
    METRICS[metric.name] = metric
    return metric


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: where there is none, with the nearest name.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r}{_nearest(name, METRICS)}")
    return METRICS[name]


def find_objective(name: str) -> Metric:
    """The metric of a name, if a study may optimise it.

    Raises:
        ValueError: where it may not, with the nearest name.
    """
    metric = METRICS.get(name)
    if metric is None or not metric.objective:
        raise ValueError(f"objectives: no trial reports {name!r}{_nearest(name, objectives())}")
    return metric


def objectives() -> list[str]:
    """What a study may optimise."""
    return [metric.name for metric in METRICS.values() if metric.objective]


def results() -> list[str]:
    """What says how good an encoder is."""
    return [metric.name for metric in METRICS.values() if metric.role == "result"]


def accuracies() -> list[str]:
    """Results whose error, one minus their value, is a fraction."""
    return [name for name in results() if METRICS[name].unit == "fraction" and METRICS[name].direction == "maximize"]


def costs() -> list[str]:
    """What stands beside the objectives in every table."""
    return [metric.name for metric in METRICS.values() if metric.role == "cost"]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}"


def _accuracy(name: str, label: str, *, tag: str = "", images: str | None = None) -> Metric:
    role: Role = "result" if images else "diagnostic"
    return Metric(name, label, "fraction", role, "maximize", tag, images)


def _cost(name: str, label: str, unit: Unit, *, tag: str = "", planned: bool = False) -> Metric:
    return Metric(name, label, unit, "cost", "minimize", tag, planned=planned)


_BUILT_IN = (
    # Of the linear probe on validation images; robust under PGD with the evaluation's threat model.
    _accuracy("clean_accuracy", "clean accuracy", tag="accuracy/clean", images="validation_images"),
    _accuracy("robust_accuracy", "robust accuracy", tag="accuracy/robust", images="attacked_images"),
    # On the images that the probe was fitted to.
    _accuracy("probe_accuracy", "probe accuracy", tag="accuracy/probe"),
    # On test images, of finalists alone: `confirm.attacks`.
    _accuracy("pgd20", "accuracy under PGD-20"),
    _accuracy("autoattack", "accuracy under AutoAttack"),
    Metric("loss", "loss", "number", direction="minimize", tag="loss/total"),
    Metric("learning_rate", "learning rate", "number", tag="optimizer/learning rate"),
    # Of the layers' last LARS steps, those that the learning rate limited.
    Metric("clipped_share", "clipped share", "fraction", tag="optimizer/clipped share"),
    Metric("delta_mean", "mean size of the perturbation", "pixels", tag="perturbation/mean size"),
    Metric("delta_border_share", "share at the border", "fraction", tag="perturbation/share at the border"),
    # Sums from the trial's first epoch on; FLOPs of training alone.
    _cost("crop_passes", "crop passes", "passes", tag="cost/crop passes", planned=True),
    _cost("flops", "FLOPs", "FLOPs", tag="cost/FLOPs", planned=True),
    _cost("train_seconds", "training time", "seconds"),
    _cost("eval_seconds", "evaluation time", "seconds"),
    # The largest so far, of one worker.
    _cost("peak_memory_bytes", "peak memory in bytes", "bytes", tag="cost/peak memory in bytes"),
    # Neither training nor evaluation: building, checkpoints, reports, waiting.
    Metric("overhead_seconds", "overhead", "seconds", direction="minimize", tag=""),
    Metric("crop_passes_per_second", "crop passes per second", "count", tag="cost/crop passes per second"),
)
METRICS.update({metric.name: metric for metric in _BUILT_IN})
