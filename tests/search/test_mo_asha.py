"""MO-ASHA: where trials are judged, and what a verdict depends on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from asking import flops_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.search.mo_asha import MultiObjectiveAsha, rungs_of
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason

ACCURACIES = {"clean_accuracy": "maximize", "robust_accuracy": "maximize"}


def study(
    *, objectives: dict[str, str] = ACCURACIES, rungs: Sequence[float] = (0.5,), keep: float = 0.5
) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "halved",
            "objectives": objectives,
            "search": {"sampler": "random", "mo_asha": {"rungs": rungs, "keep": keep}},
            "space": {"crops.views": {"int": [2, 40]}, "pretraining.epochs": {"int": [1, 40]}},
        }
    )


CONFIG = study()


def record(
    number: int,
    curve: Sequence[tuple[float | None, float | None]],
    *,
    views: int = 4,
    epochs: int = 4,
    status: Status = "running",
) -> TrialRecord:
    """A trial with a clean and a robust accuracy for each of its epochs so far."""
    point = {"crops.views": views, "pretraining.epochs": epochs}
    trial = CONFIG.trial_at(point)
    rows = [
        {
            "epoch": epoch,
            "clean_accuracy": clean,
            "robust_accuracy": robust,
            "crop_passes": trial.crop_passes_per_epoch * epoch,
            "flops": flops_of(trial) * epoch / epochs,
        }
        for epoch, (clean, robust) in enumerate(curve, start=1)
    ]
    return TrialRecord(number, point, rows, status)


def level(number: int, score: float | None, *, seen: int = 2, **given: Any) -> TrialRecord:
    """A trial whose accuracies stay where they are."""
    return record(number, [(score, score)] * seen, **given)


def text(reason: StopReason | None) -> str:
    return reason.text if reason else ""


def verdict(judged: TrialRecord, others: Sequence[TrialRecord], config: StudyConfig = CONFIG) -> str:
    return text(MultiObjectiveAsha(config).verdict(judged, others))


class TestRungs:
    @pytest.mark.parametrize(
        ("epochs", "every", "shares", "expected"),
        [
            (1, 1, (0.25, 0.5), []),
            (2, 1, (0.25, 0.5), [(0.5, 1)]),
            (3, 1, (0.25, 0.5), [(0.25, 1), (0.5, 2)]),
            (4, 1, (0.25, 0.5), [(0.25, 1), (0.5, 2)]),
            (10, 1, (0.5, 0.25, 0.1), [(0.1, 1), (0.25, 3), (0.5, 5)]),
            (10, 1, (0.3, 0.7), [(0.3, 3), (0.7, 7)]),  # 0.3 · 10 is a little more than 3
            (10, 4, (0.25, 0.5), [(0.25, 4), (0.5, 8)]),
            (10, 4, (0.1, 0.2, 0.9), [(0.2, 4)]),
            (10, 10, (0.25, 0.5), []),
            (10, 99, (0.25, 0.5), []),
            (2, 1, (0.01, 0.99), [(0.01, 1)]),
        ],
    )
    def test_they_lie_at_the_first_measured_epochs_that_reach_their_shares(
        self, epochs: int, every: int, shares: Sequence[float], expected: list[tuple[float, int]]
    ) -> None:
        trial = TrialConfig.model_validate(
            {"pretraining": {"epochs": epochs}, "evaluation": {"every_epochs": every}},
        )
        assert rungs_of(trial, shares) == expected

    @given(
        epochs=st.integers(1, 200),
        every=st.integers(1, 20),
        shares=st.lists(st.integers(1, 99).map(lambda percent: percent / 100), min_size=1, max_size=5, unique=True),
    )
    def test_they_are_measured_in_order_and_before_the_end(self, epochs: int, every: int, shares: list[float]) -> None:
        trial = TrialConfig.model_validate({"pretraining": {"epochs": epochs}, "evaluation": {"every_epochs": every}})
        rungs = rungs_of(trial, shares)
        assert [rung.share for rung in rungs] == sorted({rung.share for rung in rungs})
        assert [rung.epoch for rung in rungs] == sorted({rung.epoch for rung in rungs})
        for rung in rungs:
            assert rung.share in shares
            assert rung.share * epochs <= rung.epoch + 1e-9
            assert rung.epoch < epochs
            assert trial.evaluates(rung.epoch)
            earlier = [epoch for epoch in range(1, rung.epoch) if trial.evaluates(epoch)]
            assert all(epoch < rung.share * epochs for epoch in earlier)

    def test_they_do_not_depend_on_the_order_of_the_shares(self) -> None:
        trial = TrialConfig.model_validate({"pretraining": {"epochs": 20}})
        assert rungs_of(trial, (0.5, 0.1, 0.25)) == rungs_of(trial, (0.1, 0.25, 0.5))


def test_a_trial_that_all_others_beat_is_stopped_with_a_reason() -> None:
    said = verdict(level(9, 0.1), [level(number, 0.5 + number / 10) for number in range(3)])
    assert said.startswith("fell behind after 0.5 of its schedule: ")
    assert "4 trials" in said


def test_a_trial_that_beats_all_others_goes_on() -> None:
    assert verdict(level(9, 0.9), [level(number, 0.5 + number / 10) for number in range(3)]) == ""


def test_the_first_at_a_rung_goes_on() -> None:
    assert verdict(level(0, 0.0), []) == ""
    assert (
        verdict(level(0, 0.0), [level(1, 0.9, seen=1), record(2, [], epochs=8), level(3, 0.9, seen=3, epochs=8)]) == ""
    )


@pytest.mark.parametrize(("seen", "judged"), [(0, False), (1, False), (2, True), (3, False), (4, False)])
def test_trials_are_judged_at_their_rungs_alone(seen: int, judged: bool) -> None:
    others = [level(number, 0.9, seen=4) for number in range(5)]
    assert bool(verdict(level(9, 0.1, seen=seen), others)) is judged


def test_a_rung_is_a_share_of_the_trial_s_own_schedule() -> None:
    others = [level(number, 0.9, seen=4, epochs=8) for number in range(5)]
    assert verdict(level(9, 0.1, seen=4, epochs=8), others)
    assert not verdict(level(9, 0.1, seen=2, epochs=8), others)
    assert verdict(level(9, 0.1, seen=10, epochs=20), others)  # half of its 20 epochs against half of their 8


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_missing_value_loses_to_any_number(keep: float) -> None:
    config = study(keep=keep)
    others = [level(number, number / 1000) for number in range(10)]
    assert verdict(record(99, [(0.9, None)] * 2), others, config)
    assert verdict(record(99, [(float("nan"), 0.9)] * 2), others, config)
    assert verdict(level(99, 0.5), [record(number, [(None, 1.0)] * 2) for number in range(10)], config) == ""


class TestPlannedFlops:
    BETTER = (level(0, 0.9, views=10), level(1, 0.8, views=20), level(2, 0.7, views=20))

    @pytest.mark.parametrize(("views", "stopped"), [(2, False), (9, False), (11, True), (40, True)])
    def test_a_cheap_trial_is_not_beaten_by_dearer_ones(self, views: int, stopped: bool) -> None:
        assert bool(verdict(level(9, 0.1, views=views), self.BETTER)) is stopped

    def test_a_short_schedule_is_a_cheap_one(self) -> None:
        """At half of its schedule each has come through as many crops as the others."""
        long = [level(number, 0.9, seen=10, views=4, epochs=20) for number in range(3)]
        assert verdict(level(9, 0.1, views=4, epochs=2, seen=1), long) == ""
        short = [level(number, 0.9, seen=1, views=4, epochs=2) for number in range(3)]
        assert verdict(level(9, 0.1, views=4, epochs=20, seen=10), short)

    @pytest.mark.parametrize("cost", ["crop_passes", "flops"])
    def test_a_cost_among_the_objectives_is_that_of_the_whole_schedule(self, cost: str) -> None:
        """At its first rung a long trial has cost less than a short one at its second."""
        config = study(objectives={"clean_accuracy": "maximize", cost: "minimize"})
        short = [level(number, 0.9, seen=1, epochs=2) for number in range(3)]
        assert verdict(level(9, 0.1, epochs=4, seen=2), short, config)
        long = [level(number, 0.9, seen=20, epochs=40) for number in range(3)]
        assert verdict(level(9, 0.1, epochs=4, seen=2), long, config) == ""


SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=4)
PEERS = st.lists(st.tuples(SCORES, st.integers(2, 40)), min_size=2, max_size=8)


class TestMemory:
    @settings(max_examples=40)
    @given(peers=PEERS, seed=st.integers(0, 99))
    def test_a_verdict_depends_on_the_records_alone(
        self, peers: list[tuple[list[tuple[float, float]], int]], seed: int
    ) -> None:
        """Neither on what was judged before, nor on what came of the others after the rung."""
        records = [record(number, curve, views=views) for number, (curve, views) in enumerate(peers)]
        first = record(0, peers[0][0][:2], views=peers[0][1])
        expected = verdict(first, records)
        used = MultiObjectiveAsha(CONFIG)
        for number in np.random.default_rng(seed).permutation(len(records)):
            used.verdict(record(int(number), peers[number][0][:2], views=peers[number][1]), records[: number + 1])
        assert text(used.verdict(first, records)) == expected
        at_rung = [record(number, curve[:2], views=views) for number, (curve, views) in enumerate(peers)]
        assert text(used.verdict(first, at_rung)) == expected

    @settings(max_examples=40)
    @given(peers=PEERS, status=st.sampled_from(["running", "finished", "stopped", "failed"]))
    def test_what_became_of_the_others_does_not_matter(
        self, peers: list[tuple[list[tuple[float, float]], int]], status: Status
    ) -> None:
        first, *others = [record(number, curve[:2], views=views) for number, (curve, views) in enumerate(peers)]
        ended = [TrialRecord(other.number, other.point, other.rows, status) for other in others]
        assert verdict(first, ended) == verdict(first, others)

    def test_an_older_state_of_the_trial_itself_is_no_peer(self) -> None:
        halving, others = MultiObjectiveAsha(CONFIG), [level(number, 0.1) for number in range(3)]
        assert halving.verdict(level(9, 0.9), [*others, level(9, 0.9, seen=1), level(9, 0.1)]) is None
        said = text(halving.verdict(level(9, 0.05), [*others, level(9, 0.9)]))
        assert "4 trials" in said


def test_a_trial_is_as_good_as_the_best_of_its_operating_points() -> None:
    def at(number: int, points: Sequence[tuple[float, float]]) -> TrialRecord:
        one = record(number, [(0.0, 0.0)] * 2)
        curve = [{"l2": n, "clean_accuracy": c, "robust_accuracy": r} for n, (c, r) in enumerate(points, start=1)]
        return TrialRecord(number, one.point, [{**row, "operating_points": curve} for row in one.rows])

    flat, bent = at(0, [(0.5, 0.5), (0.5, 0.5)]), at(1, [(0.9, 0.1), (0.6, 0.6)])
    assert verdict(bent, [flat]) == ""
    assert "place 2 of the 2" in verdict(at(1, [(0.4, 0.1), (0.1, 0.4)]), [flat])
    assert verdict(flat, [at(1, [(0.4, 0.1), (0.1, 0.4)])]) == ""
