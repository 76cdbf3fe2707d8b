"""What test.json holds."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfamc_ray.store.records import TrialFolder
from cfamc_ray.store.tested import PointTest, dump_tests, parse_tests

fractions = st.floats(0, 1)
point_tests = st.builds(
    PointTest,
    l2=st.none() | st.floats(1e-6, 1e6),
    sample=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    accuracies=st.dictionaries(st.sampled_from(["none", "pgd", "autoattack"]), fractions, min_size=1),
    problem=st.text(max_size=5),
)


@given(st.lists(point_tests, min_size=1, max_size=4, unique_by=lambda test: test.l2))
def test_it_is_read_as_it_was_written(tests: list[PointTest]) -> None:
    assert parse_tests(dump_tests(tests)) == {test.l2: test for test in tests}


def test_a_flat_file_is_the_test_of_a_trial_without_operating_points(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open({})
    assert folder.read_tests() == {}
    folder.test_file.write_text('{"test_sample": {"images": 9}, "none": 0.5, "pgd": null, "problem": "unsure"}\n')
    old = PointTest(None, {"images": 9}, {"none": 0.5}, "unsure")
    assert folder.read_tests() == {None: old}
    new = PointTest(0.1, {"images": 8}, {"none": 0.75})
    folder.add_test(PointTest(0.1, {}, {}, "out of memory"))
    folder.add_test(new)
    assert folder.read_tests() == {None: old, 0.1: new}
    assert json.loads(folder.test_file.read_text())["operating_points"][1] == {
        "l2": 0.1,
        "test_sample": {"images": 8},
        "none": 0.75,
    }


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"operating_points": []},
        {"operating_points": {}},
        {"operating_points": [3]},
        {"operating_points": [{"l2": 0.1}]},
        {"operating_points": [{"l2": "0.1", "none": 0.5}]},
        {"operating_points": [{"l2": 0.1, "none": "0.5"}]},
        {"operating_points": [{"l2": 0.1, "none": 0.5, "test_sample": 3}]},
        {"operating_points": [{"l2": 0.1, "none": 0.5, "problem": None}]},
    ],
    ids=str,
)
def test_a_file_of_another_form_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="holds"):
        parse_tests(json.dumps(content))
