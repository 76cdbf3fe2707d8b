"""What an earlier study is worth: the recorded trials, and the race on test problems."""

import pytest

from benchmarks.earlier import L2, earlier_of, errors_on_recorded, recorded_table, shares, table
from cfamc_ray.metrics import accuracies


def test_the_table_is_an_earlier_study_of_272_trials_with_both_accuracies() -> None:
    study = recorded_table()
    assert len(study.records) == 272
    assert study.config.trial.evaluation.head.l2 == (L2,)
    assert all(0 < record.value("clean_accuracy") < 1 for record in study.records)


@pytest.mark.long
def test_the_recorded_trials_of_another_width_are_predicted_from_it() -> None:
    rows = {(row["objective"], row["known"]): row for row in errors_on_recorded()}
    assert {name for name, _ in rows} <= set(accuracies())
    assert all(row["with"] < row["spread"] for row in rows.values())
    assert all(row["without"] is None for (_, known), row in rows.items() if known == 0)
    assert all(row["with"] < row["without"] for (_, known), row in rows.items() if 0 < known < 12)


def test_an_earlier_study_is_lower_and_spread_less() -> None:
    values = [record.values(["clean_accuracy", "robust_accuracy"]) for record in earlier_of("zdt1", 0.03, 0).records]
    assert len(values) == 30
    assert max(robust for _, robust in values) < 0


@pytest.mark.long
def test_a_search_that_knows_it_holds_more_of_the_front_early() -> None:
    without, knowing = (shares(known, "trade_off", 0.03, 0) for known in (False, True))
    assert knowing[5] > without[5]
    case = {"problem": "trade_off", "noise": 0.03}
    rows = [{**case, "earlier": False, "shares": without}, {**case, "earlier": True, "shares": knowing}]
    assert f"{without[5]:.2f} → {knowing[5]:.2f}" in table(rows)
