"""The study that confirms a front, which of its encoders are still to be tested, and what its tests say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_by_hand import operating_point, row, study

from cfamc_ray.front.finalists import confirmed_front, confirming_study, untested_strengths, write_confirmation
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.records import TrialFolder, TrialRecord, read_trials, write_config
from cfamc_ray.store.tested import PointTest

CONFIG = study(confirm={"seeds": 2, "attacks": ["pgd20"], "tolerance": 0})
CURVE = {0.1: (0.5, 0.1), 1.0: (0.4, 0.2), 10.0: (0.1, 0.1)}
"""Clean and robust accuracy by strength; the last one is dominated."""


def rows(curve: dict[float, tuple[float, float]]) -> list[dict[str, object]]:
    return [row(1, done=True, operating_points=[operating_point(l2, *values) for l2, values in curve.items()])]


def trials(folder: Path) -> Iterator[TrialFolder]:
    """The confirmation's trials."""
    return (TrialFolder(folder / "confirm", record.number) for record in read_trials(folder / "confirm"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with two trials at one point, and its confirmation, trained and not tested."""
    write_config(tmp_path, CONFIG)
    for number in (0, 1):
        trial = TrialFolder(tmp_path, number)
        trial.open({"crops.views": 4, "perturbation.epsilon": 0.01})
        trial.write_rows(rows(CURVE))
    fresh = confirming_study(CONFIG, read_trials(tmp_path), [])
    assert fresh is not None
    (tmp_path / "confirm").mkdir()
    write_config(tmp_path / "confirm", fresh)
    for number, point in enumerate(SearchSpace(fresh).first_points):
        trial = TrialFolder(tmp_path / "confirm", number)
        trial.open(point)
        gain = 0.02 * number
        trial.write_rows(rows({l2: (clean - gain, robust + gain) for l2, (clean, robust) in CURVE.items()}))
    return tmp_path


def passed(l2: float | None, clean: float = 0.4, robust: float = 0.1) -> PointTest:
    return PointTest(l2, {}, {"none": clean, "pgd": robust + 0.01, "pgd_margin": robust})


def test_one_training_with_a_seed_serves_all_operating_points_and_is_tested_at_those_of_the_front(folder: Path) -> None:
    assert [dict(record.point) for record in read_trials(folder / "confirm")] == [
        {"crops.views": 4, "perturbation.epsilon": 0.01, "seed": seed} for seed in (1, 2)
    ]
    assert untested_strengths(CONFIG, folder) == {0: [0.1, 1.0], 1: [0.1, 1.0]}


def test_only_strengths_that_no_test_has_are_tested(folder: Path) -> None:
    first, second = trials(folder)
    first.add_test(passed(0.1))
    second.add_test(passed(None))
    assert untested_strengths(CONFIG, folder) == {0: [1.0], 1: [0.1, 1.0]}
    first.add_test(passed(1.0))
    assert untested_strengths(CONFIG, folder) == {1: [0.1, 1.0]}
    first.test_file.write_text("{")
    assert untested_strengths(CONFIG, folder) == {0: [0.1, 1.0], 1: [0.1, 1.0]}


def test_tests_of_another_protocol_are_made_again_and_do_not_count(folder: Path) -> None:
    assert CONFIG.confirm is not None
    for trial in trials(folder):
        for l2 in (0.1, 1.0):
            digest = CONFIG.confirm.protocol(CONFIG.trial.evaluation, l2).digest
            trial.add_test(passed(l2)._replace(protocol=digest))
    assert untested_strengths(CONFIG, folder) == {}
    more = CONFIG.confirm.model_copy(update={"attacked_images": CONFIG.confirm.attacked_images + 1})
    asked = CONFIG.model_copy(update={"confirm": more})
    assert untested_strengths(asked, folder) == {0: [0.1, 1.0], 1: [0.1, 1.0]}
    assert {one.seeds for one in confirmed_front(CONFIG, folder)} == {2}
    assert {one.seeds for one in confirmed_front(asked, folder)} == {0}


def test_a_front_that_has_changed_asks_for_further_strengths_alone(folder: Path) -> None:
    for trial in trials(folder):
        trial.add_test(passed(0.1))
        trial.add_test(passed(1.0))
    TrialFolder(folder, 0).write_rows(rows({**CURVE, 10.0: (0.3, 0.3)}))
    assert untested_strengths(CONFIG, folder) == {0: [10.0], 1: [10.0]}
    fresh = confirming_study(CONFIG, read_trials(folder), read_trials(folder / "confirm"))
    assert fresh is not None
    assert fresh.budget.trials == 2


def test_each_operating_point_has_the_fresh_values_of_its_strength(folder: Path) -> None:
    for number, trial in enumerate(trials(folder)):
        trial.add_test(passed(0.1, clean=0.45 + 0.01 * number, robust=0.05))
        if number == 0:
            trial.add_test(passed(1.0, clean=0.35, robust=0.15))
    weak, strong = confirmed_front(CONFIG, folder)
    assert (weak.record.l2, strong.record.l2) == (0.1, 1.0)
    assert (weak.fresh_seeds, strong.fresh_seeds) == ((1, 2), (1,))
    assert weak.tested["clean_accuracy"].values == (0.45, 0.46)
    assert weak.tested["robust_accuracy"].values == (0.05, 0.05)
    assert weak.again["clean_accuracy"].values == pytest.approx((0.5, 0.48))
    assert strong.again["robust_accuracy"].values == (0.2,)
    assert weak.selection == pytest.approx({"clean_accuracy": 0.01, "robust_accuracy": -0.01})
    assert weak.optimism == pytest.approx({"clean_accuracy": 0.045, "robust_accuracy": 0.05})
    assert (weak.front_probability, strong.front_probability) == (1.0, 1.0)
    write_confirmation(CONFIG, folder, [weak, strong])
    header, first, _ = (folder / "confirm.csv").read_text().splitlines()
    assert header.startswith("trial_id,evaluation.head.l2,seeds,")
    assert first.startswith("trial_00000,0.1,2,")
    surface = (folder / "attainment.csv").read_text().splitlines()
    assert surface[1:3] == ["0.2,0.35,0.15", "0.2,0.45,0.05"]


def test_trials_without_operating_points_are_confirmed_as_before(folder: Path) -> None:
    for number in (0, 1):
        TrialFolder(folder, number).write_rows([row(1, done=True)])
    for trial in trials(folder):
        trial.write_rows([row(1, done=True, clean_accuracy=0.45)])
    assert untested_strengths(CONFIG, folder) == {0: [None], 1: [None]}
    for trial in trials(folder):
        trial.test_file.write_text('{"none": 0.4, "pgd": 0.25, "pgd_margin": 0.2}')
    assert untested_strengths(CONFIG, folder) == {}
    (one,) = confirmed_front(CONFIG, folder)
    assert one.tested["robust_accuracy"].values == (0.2, 0.2)
    assert one.selection == pytest.approx({"clean_accuracy": 0.05, "robust_accuracy": 0.0})


def test_a_study_that_searches_recipes_is_confirmed_with_one_evaluation() -> None:
    config = study(space={"base": {"choice": ["cf-amc-ssl", "emp-ssl-crops"]}}, confirm={"seeds": 1})
    record = TrialRecord(0, {"base": "emp-ssl-crops"}, rows(CURVE), "finished")
    fresh = confirming_study(config, [record], [])
    assert fresh is not None
    trial = fresh.trial_at({"base": "emp-ssl-crops", "seed": 1})
    assert trial.evaluation.every_epochs == trial.pretraining.epochs
