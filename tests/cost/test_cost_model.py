"""Costs of trials as fitted to those that have run."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_by_hand import study

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import EVALUATION, CostModel, fit_costs
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord

CONFIG = study(
    space={
        "crops.views": {"int": [2, 40]},
        "pretraining.batch_images": {"choice": [50, 100, 500]},
        "pretraining.epochs": {"int": [1, 40]},
        "evaluation.every_epochs": {"int": [1, 40]},
    }
)


class Size(NamedTuple):
    """A point, and how far its trial came."""

    views: int
    batch: int
    epochs: int
    every: int
    seen: int

    @property
    def point(self) -> dict[str, int]:
        return dict(zip(CONFIG.space, self[:4], strict=True))


SIZES = (
    Size(4, 100, 4, 1, 4),
    Size(16, 50, 4, 4, 3),
    Size(2, 500, 9, 2, 9),
    Size(30, 100, 2, 2, 2),
    Size(9, 50, 6, 1, 1),
)
ELSEWHERE = (Size(40, 50, 40, 1, 40), Size(2, 500, 1, 1, 1), Size(12, 100, 10, 3, 10))


class Work(NamedTuple):
    """Of a network whose arithmetic and memory traffic are told apart by the batch alone."""

    flops: float
    activations: float
    kept: float
    parameters: float
    evaluation_flops: float = 1.0
    evaluation_kept: float = 0.0


def work_of(trial: TrialConfig) -> Work:
    kept = float(trial.crops.views * trial.pretraining.batch_images)
    return Work(trial.crop_passes * 1.5e9, 0.0, kept, 0.0)


def seconds_of(size: Size, rates: Sequence[float], *, seen: int | None = None) -> float:
    """By the closed form: so much for each FLOP, each weight update and each measured epoch."""
    epochs = size.epochs if seen is None else seen
    measured = sum(epoch % size.every == 0 or epoch == size.epochs for epoch in range(1, epochs + 1))
    updates = epochs * (45_000 // size.batch) * 3
    flops = epochs * 45_000 * 3 * size.views * 1.5e9
    return rates[0] * flops + rates[1] * updates + rates[2] * measured


def record(number: int, size: Size, rates: Sequence[float] = (0, 0, 1), **given: Any) -> TrialRecord:
    seconds = seconds_of(size, rates, seen=size.seen)
    row = {"train_seconds": 0.75 * seconds, "eval_seconds": 0.25 * seconds, "peak_memory_bytes": 1e8, **given}
    status: Status = "finished" if size.seen == size.epochs else "stopped"
    return TrialRecord(number, size.point, [{"epoch": epoch} for epoch in range(1, size.seen)] + [row], status)


RATES = st.tuples(st.floats(1e-15, 1e-12), st.floats(1e-4, 1e-1), st.floats(1e-2, 1e2))


@given(RATES)
def test_seconds_that_grow_with_flops_updates_and_measurements_are_found(rates: tuple[float, ...]) -> None:
    model = fit_costs(CONFIG, [record(number, size, rates) for number, size in enumerate(SIZES)], work_of)
    assert model.seconds_per is not None
    assert [model.seconds_per[name] for name in ("flop", "update", EVALUATION)] == pytest.approx(rates, rel=1e-5)
    for size in ELSEWHERE:
        assert model.seconds(CONFIG.trial_at(size.point)) == pytest.approx(seconds_of(size, rates), rel=1e-6)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_takes_no_time_is_found_to_take_none(part: int) -> None:
    rates = [2e-13, 1e-2, 3.0]
    rates[part] = 0.0
    model = fit_costs(CONFIG, [record(number, size, rates) for number, size in enumerate(SIZES)], work_of)
    for size in ELSEWHERE:
        assert model.seconds(CONFIG.trial_at(size.point)) == pytest.approx(seconds_of(size, rates), rel=1e-6)


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=len(SIZES)), st.sampled_from([*SIZES, *ELSEWHERE]))
def test_no_estimate_is_negative_whatever_was_measured(noisy: list[float], elsewhere: Size) -> None:
    records = [
        record(number, size, train_seconds=value, eval_seconds=0.0, peak_memory_bytes=value)
        for number, (size, value) in enumerate(zip(SIZES, noisy, strict=False))
    ]
    model, trial = fit_costs(CONFIG, records, work_of), CONFIG.trial_at(elsewhere.point)
    seconds, memory = model.seconds(trial), model.memory_bytes(trial)
    assert seconds is not None
    assert seconds >= 0
    assert (memory is None) is (len(noisy) == 1)
    assert memory is None or memory >= 0


def test_errors_count_relative_to_what_was_measured() -> None:
    """A short trial at 1 s an epoch and a long one at 2 s: (a - 1)² + (a / 2 - 1)² is least at 1.2 s."""
    short, long = Size(4, 100, 40, 1, 1), Size(4, 100, 40, 1, 40)
    records = [
        record(0, short, train_seconds=1.0, eval_seconds=0.0),
        record(1, long, train_seconds=60.0, eval_seconds=20.0),
    ]
    assert fit_costs(CONFIG, records, work_of).seconds(CONFIG.trial_at(long.point)) == pytest.approx(40 * 1.2)


@pytest.mark.parametrize("value", [None, math.nan, 0.0])
@pytest.mark.parametrize("name", ["train_seconds", "eval_seconds", "peak_memory_bytes"])
def test_a_row_that_misses_a_cost_is_left_out_of_its_fit(name: str, value: float | None) -> None:
    rates = (2e-13, 1e-2, 3.0)
    records = [
        record(number, size, rates, peak_memory_bytes=1e8 + 3 * work_of(CONFIG.trial_at(size.point)).kept)
        for number, size in enumerate(SIZES)
    ]
    missing = {name: value} if value != 0 else dict.fromkeys(("train_seconds", "eval_seconds", name), 0.0)
    more = [*records, record(9, ELSEWHERE[1], rates, **{"peak_memory_bytes": 4e8} | missing)]
    fitted, expected = fit_costs(CONFIG, more, work_of), fit_costs(CONFIG, records, work_of)
    if name == "peak_memory_bytes":
        assert fitted.bytes_per == expected.bytes_per
    else:
        assert fitted.seconds_per == expected.seconds_per
        assert fitted.bytes_per != expected.bytes_per


@pytest.mark.parametrize(
    "records",
    [
        [],
        [TrialRecord(0, SIZES[0].point), TrialRecord(1, SIZES[1].point, [], "failed", "out of memory")],
        [record(0, SIZES[0], train_seconds=None, peak_memory_bytes=None)],
    ],
    ids=["no trial", "no epoch", "nothing reported"],
)
def test_before_anything_has_run_nothing_is_known(records: list[TrialRecord]) -> None:
    model, trial = fit_costs(CONFIG, records, work_of), CONFIG.trial_at(SIZES[0].point)
    assert (model.seconds(trial), model.memory_bytes(trial)) == (None, None)


def test_one_trial_tells_the_seconds_of_its_like() -> None:
    model = fit_costs(CONFIG, [record(0, SIZES[0], (2e-13, 1e-2, 3.0))], work_of)
    trial = CONFIG.trial_at(SIZES[0].point)
    assert model.seconds(trial) == pytest.approx(seconds_of(SIZES[0], (2e-13, 1e-2, 3.0)))
    assert model.memory_bytes(trial) is None


@given(st.floats(0, 1e10), st.floats(1e-3, 1e3))
def test_memory_grows_from_a_floor_with_the_activations(floor: float, each: float) -> None:
    def need(size: Size) -> float:
        return floor + each * work_of(CONFIG.trial_at(size.point)).kept

    records = [record(number, size, peak_memory_bytes=need(size)) for number, size in enumerate(SIZES)]
    model = fit_costs(CONFIG, records, work_of)
    for size in ELSEWHERE:
        assert model.memory_bytes(CONFIG.trial_at(size.point)) == pytest.approx(need(size), rel=1e-6)


def test_memory_is_not_known_from_trials_of_one_size() -> None:
    alike = [record(0, SIZES[0]), record(1, SIZES[0]._replace(epochs=9, seen=9))]
    assert fit_costs(CONFIG, alike, work_of).memory_bytes(CONFIG.trial_at(SIZES[0].point)) is None
    assert fit_costs(CONFIG, [*alike, record(2, SIZES[1])], work_of).bytes_per is not None


def test_each_worker_has_its_share_of_crops_and_all_parameters() -> None:
    def work(trial: TrialConfig) -> Work:
        return Work(6e12, 4e9, 1e9, 1e6)

    rates = {"flop": 1e-12, "activation": 1e-9, "updated_parameter": 1e-9, "update": 1e-3, EVALUATION: 0.0}
    model = CostModel(work, 2, rates, {"process": 1e8, "kept_activation": 4.0, "parameter": 12.0})
    trial = CONFIG.trial_at(SIZES[0].point)
    assert model.seconds(trial) == pytest.approx(3 + 2 + 1e-3 * trial.updates + 1e-3 * trial.updates)
    assert model.memory_bytes(trial) == pytest.approx(1e8 + 2e9 + 12e6)


def test_where_training_alone_was_measured_an_evaluation_takes_time_at_its_rate() -> None:
    def work(trial: TrialConfig) -> Work:
        return Work(6e12, 4e9, 1e9, 1e6, evaluation_flops=3e11)

    trial = CONFIG.trial_at(Size(4, 50, 9, 4, 9).point)
    assert trial.measurements == 3  # after the epochs 4, 8 and 9
    of_training = {"flop": 1e-12, "activation": 1e-9, "update": 1e-3}
    for workers in (1, 2):
        training = (6e12 * 1e-12 + 4e9 * 1e-9) / workers + 1e-3 * trial.updates
        model = CostModel(work, workers, of_training, None)
        assert model.seconds(trial) == pytest.approx(training + 9e11 / 6e12 * 10 / workers)
        fitted = CostModel(work, workers, {**of_training, EVALUATION: 1e-11}, None)
        assert fitted.seconds(trial) == pytest.approx(training + 9 / workers)


@pytest.mark.parametrize(("kept_by_evaluation", "bytes_of_activations"), [(4e8, 2e9), (6e8, 2.4e9)])
def test_memory_is_that_of_training_or_of_the_evaluation_of_which_each_worker_may_hold_a_whole_batch(
    kept_by_evaluation: float, bytes_of_activations: float
) -> None:
    def work(trial: TrialConfig) -> Work:
        return Work(6e12, 4e9, 1e9, 1e6, evaluation_kept=kept_by_evaluation)

    model = CostModel(work, 2, None, {"process": 1e8, "kept_activation": 4.0, "parameter": 12.0})
    expected = 1e8 + bytes_of_activations + 12e6
    assert model.memory_bytes(CONFIG.trial_at(SIZES[0].point)) == pytest.approx(expected)


def test_what_was_measured_elsewhere_stands_in_for_what_is_not_known() -> None:
    nothing, elsewhere = CostModel(work_of, 1, None, None), CostModel(work_of, 1, {"flop": 2.0}, {"process": 3.0})
    assert nothing.or_else(elsewhere) == elsewhere
    assert nothing.or_else(None) == nothing
    known = nothing._replace(seconds_per={"flop": 1.0})
    assert known.or_else(elsewhere) == elsewhere._replace(seconds_per={"flop": 1.0})
