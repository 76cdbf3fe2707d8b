"""What a search learns from earlier studies: places of their trials, first proposals, and how well they rank."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from asking import flops_of
from made_by_hand import COST, curve

from cfamc_ray.config.stages import fork_of
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.search.earlier import transferred, values_at
from cfamc_ray.search.front_model import FrontModel
from cfamc_ray.search.ranking import ranking_table
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.earlier import EarlierStudy
from cfamc_ray.store.records import TrialRecord

SPACE = {
    "crops.saturation": {"float": [0, 1]},
    "crops.hue": {"float": [0, 0.5]},
    "perturbation.epsilon": {"float": [0.01, 0.1], "log": True},
    "pretraining.epochs": {"int": [1, 8]},
}
BEST = 0.7
"""The best saturation."""


def config_of(space: Mapping[str, Any] = SPACE, *, images: int = 4000, **given: Any) -> StudyConfig:
    tree = {
        "name": "learns",
        "search": {"startup_trials": 3},
        "trial": {"data": {"name": "cifar10", "pretrain_images": images}},
        "space": space,
    }
    return StudyConfig.model_validate(tree | given)


def point_of(number: int) -> dict[str, Any]:
    """Points that fill the space."""
    shares = [(0.5 + number * step) % 1 for step in (0.7549, 0.5698, 0.3247)]
    return {
        "crops.saturation": shares[0],
        "crops.hue": shares[1] / 2,
        "perturbation.epsilon": 0.01 * 10 ** shares[2],
        "pretraining.epochs": 1 + number % 8,
    }


def measured(number: int, point: Point, *, better: float = 0.0, best: float = BEST) -> TrialRecord:
    """Saturation makes both accuracies good at once, and epsilon trades one for the other."""
    saturation, epsilon = (float(point[key] or 0) for key in ("crops.saturation", "perturbation.epsilon"))
    good = 1 - 2 * (saturation - best) ** 2
    place = math.log(epsilon / 0.01, 10)
    accuracies = {"clean_accuracy": better + good * (1 - place**2), "robust_accuracy": better + good * place}
    row = {"epoch": 1, "done": True, **COST, **accuracies}
    return TrialRecord(number, point, [row], "finished")


def turned(record: TrialRecord) -> TrialRecord:
    """A trial whose best values are the worst."""
    values = {name: -record.value(name) for name in ("clean_accuracy", "robust_accuracy")}
    return replace(record, rows=[{**record.rows[0], **values}])


def earlier(number: int = 24, **given: Any) -> EarlierStudy:
    records = [measured(each, point_of(each), **given) for each in range(number)]
    return EarlierStudy("1_before", config_of(name="before", images=1000), records)


def saturations(records: Sequence[TrialRecord], before: Sequence[EarlierStudy]) -> list[float]:
    """Of the first ten proposals."""
    space = SearchSpace(config_of())
    known = [transferred(space, study) for study in before]
    proposals = FrontModel(space, records, flops_of, seed=0, earlier=known).proposals()
    return [float(point["crops.saturation"] or 0) for point in islice(proposals, 10)]


def distance(found: Sequence[float], best: float = BEST) -> float:
    return statistics.mean(abs(value - best) for value in found)


class TestPlaces:
    def test_epochs_are_those_in_which_as_many_images_are_seen(self) -> None:
        (point, record), *others = transferred(SearchSpace(config_of()), earlier())
        assert point == {**point_of(0), "pretraining.epochs": 1 / 4}
        assert record.number == 0
        assert len(others) == 23

    def test_images_that_are_searched_are_those_of_the_point(self) -> None:
        space = {**SPACE, "data.pretrain_images": {"choice": [1000, 4000]}}
        points = [{**point_of(number), "data.pretrain_images": 1000} for number in range(3)]
        before = EarlierStudy("1_before", config_of(space), [measured(n, point) for n, point in enumerate(points)])
        assert [point for point, _ in transferred(SearchSpace(config_of(space)), before)] == points

    def test_a_key_that_only_this_study_searches_has_the_other_one_s_value(self) -> None:
        space = SearchSpace(config_of({**SPACE, "crops.views": {"int": [2, 20]}}))
        assert {point["crops.views"] for point, _ in transferred(space, earlier())} == {16}

    def test_trials_without_a_value_of_a_key_are_left_out(self) -> None:
        space = SearchSpace(config_of({"loss.temperature": {"float": [0.1, 1]}, "loss.name": {"choice": ["nt_xent"]}}))
        assert transferred(space, earlier()) == []

    def test_so_are_forks_unfinished_ones_and_those_that_lack_an_objective(self) -> None:
        known = earlier(4)
        fork = measured(0, fork_of(point_of(0), {"crops.hue": 0.1}, 2))
        stopped = TrialRecord(1, point_of(1), known.records[1].rows, "stopped")
        poor = TrialRecord(2, point_of(2), [{"epoch": 1, "done": True, "clean_accuracy": 0.5}], "finished")
        study = known._replace(records=[fork, stopped, poor, known.records[3]])
        assert [record.number for _, record in transferred(SearchSpace(config_of()), study)] == [3]

    def test_operating_points_are_those_of_the_nearest_strengths(self) -> None:
        record, names = curve(0, (0.001, 0.5, 0.1), (0.1, 0.4, 0.3)), ("clean_accuracy", "robust_accuracy")
        assert values_at(record, names, [0.003, 0.05, 1.0]) == [[0.5, 0.1], [0.4, 0.3], [0.4, 0.3]]
        assert values_at(record, names, [None]) == [[0.4, 0.3]]  # the balanced one
        assert values_at(measured(0, point_of(0)), names, [0.1, 1.0])[0] == measured(0, point_of(0)).values(names)


class TestProposals:
    def test_the_first_ones_are_where_the_earlier_study_found_its_front(self) -> None:
        knowing, blind = (saturations([], before) for before in ([earlier()], []))
        assert distance(knowing) < 0.15
        assert distance(blind) > 0.25

    def test_what_is_better_or_worse_everywhere_does_not_matter(self) -> None:
        ours = [measured(number, point_of(number)) for number in (30, 31, 32)]
        for better in (-0.4, 0.4):
            assert distance(saturations(ours, [earlier(better=better)])) < 0.2

    def test_where_the_studies_differ_its_own_trials_win(self) -> None:
        ours = [measured(number, point_of(number), best=0.2) for number in range(30, 54)]
        assert distance(saturations(ours, [earlier()]), 0.2) < 0.15

    def test_a_trial_that_was_stopped_before_any_has_finished_teaches_nothing(self) -> None:
        finished = measured(30, point_of(30))
        stopped = replace(finished, status="stopped", rows=[{**finished.rows[0], "done": False}])
        assert distance(saturations([stopped], [earlier()])) < 0.15

    def test_own_trials_that_all_failed_teach_nothing(self) -> None:
        failed = replace(measured(0, point_of(3)), status="failed", rows=())
        assert len(saturations([failed], [earlier()])) == 10

    def test_too_few_earlier_trials_are_no_model(self) -> None:
        assert saturations([], [earlier(2)]) == saturations([], [])

    def test_no_more_than_so_many_trials_are_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cfamc_ray.search.front_model.MOST", 12)
        ours = [measured(number, point_of(number)) for number in range(30, 50)]
        space = SearchSpace(config_of())
        known = [transferred(space, study) for study in (earlier(), earlier(3))]
        observed = FrontModel(space, ours, flops_of, seed=0, earlier=known)._observations()
        assert [each.on_front for each in observed] == [True] * 6 + [False] * 6


class TestRanking:
    @pytest.mark.parametrize(("theirs", "order"), [(BEST, 1), (None, -1)], ids=["alike", "reversed"])
    def test_it_is_one_for_the_same_order_and_minus_one_for_the_reversed_one(
        self, theirs: float | None, order: int
    ) -> None:
        ours = [measured(number, point_of(number)) for number in range(30, 42)]
        study = earlier(60)
        if theirs is None:
            study = study._replace(records=[turned(record) for record in study.records])
        table = ranking_table(SearchSpace(config_of()), [study], ours)
        assert [(row["study"], row["trials"], row["compared"]) for row in table.rows] == [("1_before", 60, 12)] * 2
        assert [row["objective"] for row in table.rows] == ["clean_accuracy", "robust_accuracy"]
        assert all(order * row["tau"] > 0.85 for row in table.rows)

    def test_without_enough_trials_there_is_none(self) -> None:
        ours = [measured(number, point_of(number)) for number in range(30, 42)]
        assert ranking_table(SearchSpace(config_of()), [earlier(2)], ours).rows == []
        assert ranking_table(SearchSpace(config_of()), [earlier()], ours[:2]).rows == []
        assert ranking_table(SearchSpace(config_of()), [], ours).rows == []
