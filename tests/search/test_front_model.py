"""The sampler `front`: what it proposes, and how soon it finds a front that is known."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from asking import Point, advance, ask, drive, flops_of, rows_of, search_of, study_of
from optuna.storages import InMemoryStorage
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessClassifier

from cfamc_ray import gaussian_process
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.front import find_front
from cfamc_ray.gaussian_process import Array, Kernel
from cfamc_ray.search import front_model
from cfamc_ray.search.front_model import FrontModel
from cfamc_ray.space.encoding import encode
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.records import TrialRecord

NUMBERS: dict[str, Any] = {
    "space": {"crops.hue": {"float": [0, 0.5]}, "crops.saturation": {"float": [0, 1]}},
    "constraints": [],
    "trial": {"pretraining": {"epochs": 1}},
}


def front_study(*, startup: int = 3, seed: int = 0, **given: Any) -> StudyConfig:
    return study_of(search={"sampler": "front", "startup_trials": startup, "seed": seed}, **given)


def ran(config: StudyConfig, points: Sequence[Point], status: Status = "finished") -> list[TrialRecord]:
    begun = [TrialRecord(number, point) for number, point in enumerate(points)]
    return [replace(record, rows=rows_of(config, record), status=status) for record in begun]


def some(config: StudyConfig, number: int) -> list[Point]:
    return list(islice(SearchSpace(config).points(), number))


def proposals(config: StudyConfig, records: Sequence[TrialRecord], *, seed: int = 0) -> Iterator[Point]:
    return (dict(point) for point in FrontModel(SearchSpace(config), records, flops_of, seed=seed).proposals())


@pytest.mark.parametrize("known", [0, 1, 5], ids=["nothing known", "too little known", "a model"])
def test_proposals_are_new_points_of_the_space_that_meet_the_constraints(known: int) -> None:
    config = front_study()
    records = ran(config, some(config, known))
    found = list(proposals(config, records))
    assert len(found) >= 60
    assert all(SearchSpace(config).contains(point) for point in found)
    assert len({tuple(point.values()) for point in found}) == len(found)
    assert not any(record.point in found for record in records)


@pytest.mark.parametrize("known", [1, 5], ids=["too little known", "a model"])
def test_seed_and_records_alone_decide_the_proposals(known: int) -> None:
    config = front_study()
    records = ran(config, some(config, known))
    first = list(proposals(config, records))
    assert list(proposals(config, records)) == first
    assert list(proposals(config, records, seed=1)) != first
    better = [replace(record, rows=[{**row, "robust_accuracy": 0.9} for row in record.rows]) for record in records]
    assert (list(proposals(config, better)) != first) is (known == 5)


def test_what_a_refused_point_reported_is_nothing() -> None:
    config = front_study()
    records = ran(config, some(config, 5))
    refused = TrialRecord(5, some(config, 6)[5], (), "infeasible", "would need too much")
    assert list(proposals(config, [*records, refused])) == list(proposals(config, records))


@pytest.mark.parametrize(
    "objectives",
    [
        {"robust_accuracy": "maximize"},
        {"flops": "minimize"},
        {"robust_accuracy": "minimize", "crop_passes": "minimize"},
        {
            "clean_accuracy": "maximize",
            "robust_accuracy": "maximize",
            "flops": "minimize",
            "peak_memory_bytes": "minimize",
        },
    ],
    ids=list,
)
@pytest.mark.parametrize("running", [0, 1])
def test_any_objectives_and_running_trials_are_taken(objectives: dict[str, str], running: int) -> None:
    config = front_study(objectives=objectives)
    *ended, last = some(config, 5)
    begun = [TrialRecord(4, last)] * running
    assert SearchSpace(config).contains(next(proposals(config, [*ran(config, ended), *begun])))


def test_the_search_learns_where_its_seed_alone_had_chosen() -> None:
    """Of the points in which nothing differs but one key, those on the better side come first."""
    space = {"crops.saturation": {"float": [0, 1]}}
    config = front_study(space=space, constraints=[], objectives={"robust_accuracy": "maximize"})
    records = ran(config, [{"crops.saturation": 0.25 + value / 10} for value in range(6)])
    places = []
    for sign in (1, -1):
        rows = [
            [{**row, "robust_accuracy": 0.5 + sign * 0.4 * r.point["crops.saturation"]} for row in r.rows]
            for r in records
        ]
        told = [replace(record, rows=shown) for record, shown in zip(records, rows, strict=True)]
        places.append(next(proposals(config, told))["crops.saturation"])
    assert places[0] > 0.7
    assert places[1] < 0.3


def test_early_epochs_of_a_stopped_trial_teach_too() -> None:
    config = front_study()
    records = ran(config, some(config, 5))
    stopped = replace(records[4], rows=records[4].rows[:2], status="stopped")
    failed_early = replace(records[4], rows=(), status="failed")
    assert list(proposals(config, [*records[:4], stopped])) != list(proposals(config, [*records[:4], failed_early]))


def test_where_trials_failed_no_more_are_proposed() -> None:
    config = front_study(space={"crops.saturation": {"float": [0, 1]}}, constraints=[])
    rising = [
        replace(
            record, rows=[{**row, "clean_accuracy": record.point["crops.saturation"] ** 0.5} for row in record.rows]
        )
        for record in ran(config, [{"crops.saturation": value / 9} for value in range(10)])
    ]
    failed = [
        replace(record, status="failed", reason="diverged") if record.point["crops.saturation"] > 0.5 else record
        for record in rising
    ]
    safe, others = (
        statistics.median(next(proposals(config, told, seed=seed))["crops.saturation"] for seed in range(7))
        for told in (failed, rising)
    )
    assert 0.3 < safe < 0.7
    assert others > 0.8


def test_what_all_others_gain_late_is_expected_of_a_stopped_trial_too() -> None:
    """It was behind by 0.1 half way, so its end counts as 0.1 behind, not as its value half way."""
    config = front_study(space={"crops.saturation": {"float": [0, 1]}}, constraints=[])
    records = []
    for record in ran(config, [{"crops.saturation": value / 9} for value in range(10)]):
        high = record.point["crops.saturation"]
        rows = [{**row, "clean_accuracy": 0.1 * row["epoch"] + 0.3 * high} for row in record.rows]
        records.append(replace(record, rows=rows))
    whole = FrontModel(SearchSpace(config), records, flops_of, seed=0)._observations()
    half = replace(records[-1], rows=records[-1].rows[:2], status="stopped")
    cut = FrontModel(SearchSpace(config), [*records[:-1], half], flops_of, seed=0)._observations()
    assert [each.features for each in cut] == [each.features for each in whole]
    assert np.array([each.signed_LK for each in cut]) == pytest.approx(np.array([each.signed_LK for each in whole]))
    assert not any(each.noise_LK.any() for each in whole)
    assert [each.on_front for each in cut] == [True] * 9 + [False]


class TestOfManyTrials:
    """What the Gaussian processes see is bounded; here by few trials, so that the tests are quick."""

    MOST = 12

    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(front_model, "MOST", self.MOST)

    @staticmethod
    def mixed(config: StudyConfig, number: int) -> list[TrialRecord]:
        """Of seven trials one failed and one was stopped half way."""
        records = ran(config, some(config, number))
        for record in records[3::7]:
            records[record.number] = replace(record, rows=(), status="failed")
        for record in records[5::7]:
            records[record.number] = replace(record, rows=record.rows[:2], status="stopped")
        return records

    @pytest.mark.parametrize("known", [5, 12, 13, 40])
    def test_no_process_is_fitted_to_more_trials_than_that(self, known: int, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: dict[str, list[int]] = {"regression": [], "classification": []}
        whole_fit = gaussian_process.fit_kernel

        def fit_kernel(X: Array, y: Array, noise: Array) -> Kernel:
            sizes["regression"].append(len(X))
            return whole_fit(X, y, noise)

        class Classifier(GaussianProcessClassifier):  # type: ignore[misc]
            def fit(self, X: Array, y: Sequence[bool]) -> Any:
                sizes["classification"].append(len(X))
                return super().fit(X, y)

        monkeypatch.setattr(gaussian_process, "fit_kernel", fit_kernel)
        monkeypatch.setattr(front_model, "GaussianProcessClassifier", Classifier)
        config = front_study()
        records = self.mixed(config, known)
        assert SearchSpace(config).contains(next(proposals(config, records)))
        assert sizes["classification"] == [min(known, self.MOST)]
        taught = sum(record.status != "failed" for record in records)
        assert max(sizes["regression"]) == taught if known <= self.MOST else max(sizes["regression"]) <= self.MOST

    def test_up_to_that_number_all_are_seen_and_beyond_it_the_best_the_latest_and_the_farthest(self) -> None:
        config = front_study()
        few, many = (
            FrontModel(SearchSpace(config), self.mixed(config, number), flops_of, seed=0) for number in (12, 60)
        )
        assert few._seen == few.records
        seen = [record.number for record in many._seen]
        assert seen == sorted(set(seen))
        assert len(seen) == self.MOST
        assert {57, 58, 59} <= set(seen)
        front = [record.number for record in find_front(config, many.records).members]
        assert set(front) <= set(seen) or set(seen) & set(front) == set(front[:6])
        rest = [record for record in many.records if record.number not in seen]
        gaps = _gaps(config, rest, many._seen)
        apart = _gaps(config, rest, many._seen[:6])
        assert gaps.max() < apart.max()

    def test_neither_the_order_of_the_records_nor_what_was_asked_before_matters(self) -> None:
        config = front_study()
        records = self.mixed(config, 30)
        first = list(proposals(config, records))
        assert list(proposals(config, records[:20])) != first
        assert list(proposals(config, records[::-1])) == first

    def test_an_interrupted_search_goes_on_as_one_that_was_not(self) -> None:
        config, storage = front_study(budget={"trials": 18}), InMemoryStorage()
        whole = search_of(config)
        expected = drive(whole)
        first = search_of(config, storage)
        begun = drive(first, trials=15)
        again = search_of(config, storage, list(first.records.values())[::-1])
        assert [*begun, *drive(again)] == expected
        assert len(expected) == 18 > self.MOST

    def test_a_known_front_is_still_approached(self) -> None:
        """With 12 of 26 trials seen, the front is nearer than with random points."""
        config = study_of(**NUMBERS, search={"sampler": "front", "startup_trials": 4, "seed": 0}, budget={"trials": 26})
        search = search_of(config)
        drive(search, scores=opposed)
        late = [abs(record.point["crops.saturation"] - 0.3) for record in list(search.records.values())[-10:]]
        assert statistics.median(late) < 0.1


def _gaps(config: StudyConfig, points: Sequence[TrialRecord], others: Sequence[TrialRecord]) -> Array:
    """Of each trial the distance to the nearest of others."""
    places, theirs = ([encode(config.space, record.point) for record in group] for group in (points, others))
    return np.asarray(cdist(places, theirs).min(axis=1))


class TestInASearch:
    @pytest.mark.parametrize("at_once", [1, 3])
    def test_points_are_new_and_meet_the_constraints(self, at_once: int) -> None:
        config = front_study(budget={"trials": 7})
        proposed = drive(search_of(config), at_once=at_once)
        assert len({tuple(proposal.point.values()) for proposal in proposed}) == 7
        assert all(SearchSpace(config).contains(proposal.point) for proposal in proposed)

    def test_the_seed_alone_decides_them(self) -> None:
        once, again, other = (
            [proposal.point for proposal in drive(search_of(front_study(seed=seed, budget={"trials": 5})))]
            for seed in (0, 0, 1)
        )
        assert once == again != other

    @pytest.mark.parametrize("known", [0, 4], ids=["at the start", "with a model"])
    def test_what_may_not_be_proposed_is_not(self, known: int) -> None:
        config = front_study(budget={"trials": 20})
        search = search_of(config)
        drive(search, trials=known)
        search.sampler.fits = lambda point: point["crops.views"] == 3
        assert [ask(search.study, config)[1]["crops.views"] for _ in range(3)] == [3, 3, 3]

    def test_first_come_the_points_of_start_from_also_after_an_interruption(self) -> None:
        first = some(front_study(), 12)[9:]
        config, storage = front_study(start_from=first, budget={"trials": 5}), InMemoryStorage()
        search = search_of(config, storage)
        begun = drive(search, trials=2)
        again = search_of(config, storage, list(search.records.values()))
        points = [proposal.point for proposal in [*begun, *drive(again)]]
        assert points[:3] == first
        assert len({tuple(point.values()) for point in points}) == 5

    def test_a_trial_that_goes_on_keeps_its_point(self) -> None:
        config, storage = front_study(budget={"trials": 3}), InMemoryStorage()
        search = search_of(config, storage)
        half = search.suggest()
        assert half is not None
        advance(search, half.number)
        assert search_of(config, storage, list(search.records.values())).suggest() == half


def opposed(record: TrialRecord) -> dict[str, float]:
    """The front is where the saturation is 0.3; along it, the hue trades one accuracy for the other."""
    hue, miss = 2 * record.point["crops.hue"], record.point["crops.saturation"] - 0.3
    clean, robust = (max(0.0, 1 - part**2 - 3 * miss**2) for part in (hue, 1 - hue))
    return {"clean_accuracy": clean, "robust_accuracy": robust}


def test_a_known_front_is_found_in_half_the_trials_that_random_points_need() -> None:
    def reached(sampler: str, trials: int) -> float:
        """Hypervolume of the front after so many trials, the median of some seeds."""
        volumes = []
        for seed in range(3):
            search_config = {"sampler": sampler, "startup_trials": 4, "seed": seed}
            search = search_of(study_of(**NUMBERS, search=search_config, budget={"trials": trials}))
            assert len(drive(search, scores=opposed)) == trials
            volumes.append(find_front(search.config, list(search.records.values())).hypervolume)
        return statistics.median(volumes)

    assert reached("front", 14) > reached("random", 28) + 0.02


def test_the_gain_of_a_point_is_that_of_its_whole_curve() -> None:
    """The balanced points say nothing here: they are the same everywhere; only the strong end tells good from bad."""
    config = front_study(**NUMBERS)
    points = some(config, 12)
    better = [point["crops.hue"] for point in points]
    records = [
        TrialRecord(
            record.number,
            record.point,
            [
                {
                    **record.rows[-1],
                    **balanced,
                    "operating_points": [{"l2": 1.0, **balanced}, {"l2": 2.0, **strong}],
                }
            ],
            "finished",
        )
        for record, hue in zip(ran(config, points), better, strict=True)
        for balanced, strong in [
            ({"clean_accuracy": 0.5, "robust_accuracy": 0.4}, {"clean_accuracy": 0.2, "robust_accuracy": 0.4 + hue})
        ]
    ]
    first = list(islice(proposals(config, records), 5))
    assert min(point["crops.hue"] for point in first) > 0.35
    flat = [replace(record, rows=[{**record.rows[-1], "operating_points": []}]) for record in records]
    assert list(islice(proposals(config, flat), 5)) != first


def test_one_operating_point_is_proposed_for_as_a_trial_without_them() -> None:
    config = front_study()
    records = ran(config, some(config, 6))
    single = [
        replace(
            record,
            rows=[
                {**row, "operating_points": [{"l2": 0.1} | {name: row[name] for name in config.objectives}]}
                for row in record.rows
            ],
        )
        for record in records
    ]
    assert list(proposals(config, single)) == list(proposals(config, records))


def test_draws_of_a_curve_follow_the_observations_at_each_operating_point() -> None:
    source = np.random.default_rng(0)
    X_NF = source.uniform(size=(60, 1))
    height_N, tilt_N = np.sin(3 * X_NF[:, 0]), X_NF[:, 0] ** 2
    Y_NL = 5 + height_N[:, None] + tilt_N[:, None] * np.array([-1.0, 0.0, 1.0])
    drawn_SML = gaussian_process.draw_curves(X_NF, Y_NL, np.zeros_like(Y_NL), source)
    assert drawn_SML.shape == (gaussian_process.SAMPLES, 60, 3)
    assert np.abs(drawn_SML.mean(axis=0) - Y_NL).max() < 0.2
    constant = gaussian_process.draw_curves(X_NF, np.full((60, 2), 0.5), np.zeros((60, 2)), source)
    assert np.allclose(constant, 0.5)
