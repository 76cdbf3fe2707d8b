"""Forks in a search: which are proposed, what they cost, and what is known of them after an interruption."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import Point, flops_of, rows_of, search_of, study_of
from optuna.storages import InMemoryStorage

from cfamc_ray.config.stages import fork_of, trunk_epochs, trunk_of, trunk_part, without_trunk
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.effects import find_effects
from cfamc_ray.front.finalists import confirming_study
from cfamc_ray.front.front import find_front
from cfamc_ray.front.growth import find_growth, find_spending
from cfamc_ray.search.budget import Budget
from cfamc_ray.search.candidates import forks_to_try, own_passes
from cfamc_ray.search.front_model import FrontModel
from cfamc_ray.search.mo_asha import MultiObjectiveAsha
from cfamc_ray.search.storage import open_storage, stored_points
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials, write_config
from cfamc_ray.store.trial_tables import tabled_points, trials_table
from cfamc_ray.store.warm_start import warm_start_from

CHANGE = ["pretraining.replays", "perturbation.epsilon"]


def forking(**given: Any) -> StudyConfig:
    search = {"startup_trials": 3, "fork": {"at": [0.5, 0.75], "change": CHANGE}, **given.pop("search", {})}
    return study_of(search=search, **given)


def ran(config: StudyConfig, points: Sequence[Point]) -> list[TrialRecord]:
    begun = [TrialRecord(number, point) for number, point in enumerate(points)]
    return [replace(record, rows=rows_of(config, record), status="finished") for record in begun]


def some(config: StudyConfig, number: int) -> list[Point]:
    return list(islice(SearchSpace(config).points(), number))


def a_fork(config: StudyConfig) -> tuple[Point, Point]:
    """A trunk and its fork after 2 of 4 epochs."""
    trunk = {**some(config, 1)[0], "crops.views": 2, "pretraining.replays": 1, "encoder.norm": "group"}
    return trunk, fork_of(trunk, {"pretraining.replays": 3}, 2)


def forked(config: StudyConfig) -> list[TrialRecord]:
    """The record of a trunk and that of a fork which began with its epochs."""
    trunk, fork = ran(config, a_fork(config))
    return [trunk, replace(fork, rows=[*trunk.rows[:2], *fork.rows[2:]], trunk="trial_00000", trunk_epochs=2)]


def test_forks_leave_trials_of_the_front_where_the_space_says_and_change_what_it_says() -> None:
    config = forking()
    records = ran(config, some(config, 8))
    found = forks_to_try(SearchSpace(config), records, seed=0)
    front = [record.point for record in find_front(config, records).members]
    assert len(found) >= 50
    assert {trunk_epochs(fork) for fork in found} == {2, 3}
    for fork in found:
        assert trunk_of(fork) in front
        changed = {key for key, value in without_trunk(fork).items() if value != trunk_of(fork)[key]}
        assert changed == {key.removeprefix("trunk.") for key in trunk_part(fork)} - {"epochs"} <= set(CHANGE)
        assert SearchSpace(config).contains(fork)
    assert len({tuple(sorted(fork.items())) for fork in found}) == len(found)


def test_a_fork_is_not_forked_again_and_a_tried_one_not_proposed_again() -> None:
    config = forking()
    space = SearchSpace(config)
    trunk = a_fork(config)[0]
    tried = [dict(fork) for fork in forks_to_try(space, ran(config, [trunk]), seed=0)[:5]]
    found = forks_to_try(space, ran(config, [trunk, *tried]), seed=0)
    assert found
    assert {tuple(trunk_of(fork).items()) for fork in found} == {tuple(trunk.items())}
    assert not any(fork in tried for fork in found)


def test_without_the_key_there_are_none_and_proposals_are_what_they_were() -> None:
    config = study_of(search={"startup_trials": 3})
    records = ran(config, some(config, 6))
    assert forks_to_try(SearchSpace(config), records, seed=0) == []
    points = FrontModel(SearchSpace(config), records, flops_of, seed=0).proposals()
    assert not any(map(trunk_epochs, points))


def test_a_fork_counts_its_own_passes_against_those_of_a_whole_trial() -> None:
    config = forking()
    trunk, fork = a_fork(config)
    whole = without_trunk(fork)
    assert own_passes(config, whole) == config.trial_at(whole).crop_passes
    assert own_passes(config, fork) == own_passes(config, whole) // 2
    model = FrontModel(SearchSpace(config), ran(config, some(config, 4)), flops_of, seed=0)
    scores = model._per_pass([trunk, whole, fork], np.array([0.1, 0.2, 0.15]))
    assert scores == pytest.approx([0.1, 0.2, 0.15 * 2])


def test_the_model_sees_how_a_trunk_differs() -> None:
    config = forking()
    model = FrontModel(SearchSpace(config), ran(config, some(config, 4)), flops_of, seed=0)
    trunk, fork = a_fork(config)
    of_trunk, of_fork, whole = (model._features(point) for point in (trunk, fork, without_trunk(fork)))
    assert of_trunk[-2:] == whole[-2:] == [0, 0]
    assert of_fork[:-2] == whole[:-2]
    assert of_fork[-2:] == pytest.approx([0.5 * (0 - 1 / 3), 0])  # replays from 1 to 7: 1 is at 0, 3 at a third
    later = model._features(fork_of(trunk, {"pretraining.replays": 3}, 3))
    assert later[-2] == pytest.approx(1.5 * of_fork[-2])


def test_a_search_proposes_forks_and_knows_them_after_a_restart(tmp_path: Path) -> None:
    config = forking(budget={"trials": 14})
    storage = open_storage(tmp_path)
    search, points = search_of(config, storage), {}
    while proposal := search.suggest():
        points[proposal.number] = dict(proposal.point)
        record = TrialRecord(proposal.number, proposal.point)
        if len(points) == 14:
            break  # the last one is interrupted
        search.ended(replace(record, rows=rows_of(config, record), status="finished"))
    forks = {number for number, point in points.items() if trunk_epochs(point)}
    assert forks
    assert stored_points(config, tmp_path) == points
    again = search_of(config, open_storage(tmp_path), list(search.records.values()))
    resumed = again.suggest()
    assert resumed is not None
    assert (resumed.number, dict(resumed.point)) == (13, points[13])
    rebuilt = search_of(config, InMemoryStorage(), list(search.records.values()))
    known = {trial.number: trial.params | trunk_part(trial.user_attrs) for trial in rebuilt.study.get_trials()}
    for number in forks:
        assert trunk_part(known[number]) == trunk_part(points[number])


def test_the_budget_pays_for_a_fork_without_its_trunk() -> None:
    config = forking(budget={"trials": 10, "crop_passes": 10**7})
    records = forked(config)
    own = own_passes(config, records[1].point)
    passes = config.trial_at(records[0].point).crop_passes
    budget = Budget(config, work_of=lambda trial: pytest.fail("not needed"))
    assert budget._left(records)["crop_passes"] == 10**7 - passes - own
    running = [records[0], TrialRecord(1, records[1].point)]
    assert budget._left(running)["crop_passes"] == 10**7 - passes - own
    assert find_growth(config, records).crop_passes == (passes, passes + own)
    (spent,) = find_spending(records)
    assert spent.crop_passes == passes + own


def test_a_fork_is_no_peer_at_a_rung_that_its_trunk_passed() -> None:
    config = forking(search={"mo_asha": {"rungs": [0.5], "keep": 0.5}})
    trunk, fork = forked(config)
    asha = MultiObjectiveAsha(config)
    assert asha._values_at(trunk, 0.5) is not None
    assert asha._values_at(fork, 0.5) is None
    assert asha._values_at(replace(fork, trunk="", trunk_epochs=0), 0.5) is not None


def test_effects_are_those_of_trials_without_a_trunk() -> None:
    config = forking()
    records = ran(config, some(config, 12))
    fork = forked(config)[1]
    assert repr(find_effects(config, [*records, replace(fork, number=12)])) == repr(find_effects(config, records))


def test_a_table_holds_the_trunks_and_gives_the_points_back(tmp_path: Path) -> None:
    config = forking()
    records = forked(config)
    table = trials_table(config, records)
    assert table.names[-2:] == ["trunk.epochs", "trunk.pretraining.replays"]
    (tmp_path / "trials.csv").write_text(table.csv())
    assert tabled_points(config, tmp_path) == {record.number: dict(record.point) for record in records}


def test_a_fork_is_confirmed_from_the_beginning_with_fresh_seeds() -> None:
    config = forking(confirm={"seeds": 2})
    confirming = confirming_study(config, forked(config)[1:], [])
    assert confirming is not None
    points = SearchSpace(confirming).first_points
    assert [trunk_part(point) for point in points] == [trunk_part(forked(config)[1].point)] * 2
    assert [point["seed"] for point in points] == [1, 2]
    assert confirming.trial_at(points[0]).stages[0].epochs == 2


def test_a_warm_start_takes_forks_over_as_whole_trials(tmp_path: Path) -> None:
    config = forking()
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
        write_config(folder, config)
    for record in forked(config):
        trial = TrialFolder(source, record.number)
        trial.open(record.point)
        trial.begin_from(record.trunk, record.trunk_epochs)
        trial.write_rows(record.rows)
    assert [record.trunk_epochs for record in read_trials(source)] == [0, 2]
    assert warm_start_from(config, target, source) == 2
    copied = read_trials(target)
    assert [dict(record.point) for record in copied] == [dict(record.point) for record in forked(config)]
    assert [record.trunk for record in copied] == ["", ""]


@pytest.mark.parametrize(
    "change",
    [
        {"trunk.epochs": 4},
        {"trunk.epochs": 0},
        {"trunk.pretraining.replays": 2},
        {"trunk.encoder.norm": "batch"},
        {"trunk.perturbation.epsilon": 1.0},
    ],
    ids=str,
)
def test_a_space_does_not_contain_a_fork_whose_trunk_is_not_in_it(change: Point) -> None:
    config = forking()
    fork = a_fork(config)[1]
    assert SearchSpace(config).contains(fork)
    assert not SearchSpace(config).contains({**fork, **change})
