import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfamc_ray.config.constraints import Constraint
from cfamc_ray.config.trial import TrialConfig

VALUES = {"a": 3, "b": -2, "section.c": 0.5}


def value_of(key: str) -> float:
    if key not in VALUES:
        raise ValueError(f"names {key}, which no trial has")
    return VALUES[key]


def _joined(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    powers = st.tuples(children, st.integers(0, 3)).map(lambda pair: f"({pair[0]}) ** {pair[1]}")
    sums = st.tuples(children, st.sampled_from("+-*/"), children).map(" ".join)
    return st.one_of(powers, sums, sums.map("({})".format), children.map("-{}".format))


ATOMS = st.one_of(st.integers(0, 9).map(str), st.sampled_from(list(VALUES)))
ARITHMETIC = st.recursive(ATOMS, _joined, max_leaves=6)
COMPARISONS = st.one_of(
    st.tuples(ARITHMETIC, st.sampled_from(["<=", "<", ">=", ">", "==", "!="]), ARITHMETIC).map(" ".join),
    st.tuples(ATOMS, ATOMS, ATOMS).map("{0[0]} <= {0[1]} < {0[2]}".format),
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map("({0[0]}) {0[1]} ({0[2]})".format),
        inner.map("not ({})".format),
    ),
    max_leaves=3,
)


@given(CONDITIONS)
def test_the_truth_is_that_of_python(text: str) -> None:
    python = text.replace("section.c", "section_c")
    try:
        expected = eval(python, {"a": 3, "b": -2, "section_c": 0.5})  # noqa: S307
    except (ZeroDivisionError, OverflowError):
        with pytest.raises(ValueError, match="cannot be computed"):
            Constraint(text).holds(value_of)
    else:
        assert Constraint(text).holds(value_of) is bool(expected)


@pytest.mark.parametrize(
    "text",
    ["crops.views * pretraining.replays <= 48", "perturbation.attack == 'free'", "crop_passes <= 2160000 * 10", "True"],
)
def test_keys_texts_and_derived_quantities_are_read(text: str) -> None:
    assert Constraint(text).holds(TrialConfig().value_of)


def test_a_constraint_that_is_not_met_is_false() -> None:
    assert not Constraint("crops.views < 16").holds(TrialConfig().value_of)


@pytest.mark.parametrize(
    "text",
    [
        "abs(a) <= 3",
        "a[0] <= 3",
        "__import__('os').system('true') == 0",
        "(lambda: 1)() == 1",
        "[a] == [3]",
        "{a} == {3}",
        "(a, b) == (3, -2)",
        "a if b else 3",
        "a // 2 == 1",
        "a % 2 == 1",
        "a << 1 == 6",
        "~a == -4",
        "+a == 3",
        "a is 3",
        "a in (3, 4)",
        "f'{a}' == '3'",
        "b'3' == a",
        "a == None",
        "a == 3j",
        "(a := 3) == 3",
        "[x for x in (1,)] == a",
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_anything_but_keys_arithmetic_and_comparisons_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"uses .*: only keys, numbers|which no trial has"):
        Constraint(text).holds(value_of)


@pytest.mark.parametrize("text", ["", "a <=", "a = 3", "a <= 3; b", "import os", "(a <= 3", "a <= 3\nb <= 3", "\0"])
def test_what_does_not_parse_is_refused_when_it_is_made(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read as a constraint|null bytes"):
        Constraint(text)


@pytest.mark.parametrize(
    "key",
    ["crops.viws", "view", "crops.__class__", "__class__.__mro__", "_crops_per_epoch", "seed.real", "crops.views.real"],
)
def test_a_key_that_no_trial_has_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"names {key}, which no trial has"):
        Constraint(f"{key} == 3").holds(TrialConfig().value_of)


@pytest.mark.parametrize("key", ["crops.model_dump", "crops.model_fields_set", "with_values"])
def test_a_method_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="which no trial has"):
        Constraint(f"{key} == 3").holds(TrialConfig().value_of)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a / (b + 2) <= 1", "cannot be computed: division by zero"),
        ("10.0 ** 400 <= 1", "cannot be computed"),
        ("a - 'x' <= 1", "cannot be computed"),
        ("a <= 'x'", "cannot be compared"),
        ("(0 - a) ** 0.5 <= 1", "cannot be compared"),
        ("a + b", "neither true nor false"),
        ("a", "neither true nor false"),
    ],
)
def test_what_has_no_truth_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Constraint(text).holds(value_of)


def test_minus_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be computed"):
        Constraint("-perturbation.attack <= 3").holds(TrialConfig().value_of)


@pytest.mark.parametrize("text", ["a and b", "a <= 3 and b", "not a", "b or a > 5"])
def test_numbers_are_not_truth_values(text: str) -> None:
    with pytest.raises(ValueError, match="neither true nor false"):
        Constraint(text).holds(value_of)


def test_a_guard_keeps_what_follows_from_being_computed() -> None:
    assert Constraint("b == -2 or a / (b + 2) <= 1").holds(value_of)


@pytest.mark.parametrize(
    "text",
    ["'x' * 10 ** 9 == 'y'", "((9 ** 64) ** 64) ** 64 > 1", "9 ** 9 ** 9 > 1", "'x' + 'y' == 'xy'", "2 ** 65 > 1"],
)
def test_nothing_takes_much_memory_or_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be computed: .*(is not a number|exceeds)"):
        Constraint(text).holds(value_of)


@pytest.mark.parametrize(
    "text", ["-" * 100_000 + "a < 1", "(" * 1000 + "a < 1" + ")" * 1000, "a" + "+a" * 9000 + " < 1"]
)
def test_what_is_too_deeply_nested_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"too deeply nested|too many nested|cannot be read"):
        Constraint(text).holds(value_of)


def test_what_is_outside_the_language_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"uses 'abs\(a\)': only keys, numbers"):
        Constraint("abs(a) <= 3")
