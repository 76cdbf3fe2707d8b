import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.yaml12 import dump_yaml, parse_yaml, read_yaml

ROOT = Path(__file__).parent.parent.parent
OURS = [path for path in sorted(ROOT.rglob("*.yaml")) if ".venv" not in path.parts and "runs" not in path.parts]
STUDIES = sorted((ROOT / "benchmarks" / "results" / "studies").rglob("*.yaml"))
AMBIGUOUS = [
    *(
        "1:30",
        "12:30:45",
        "010",
        "0o17",
        "0x1F",
        "0b1",
        "1e3",
        "1e-05",
        ".5e3",
        "1_000",
        "+1",
        "-.inf",
        ".nan",
        "-",
        ".",
    ),
    *("yes", "No", "on", "OFF", "y", "null", "Null", "~", "", "true", "False", "2024-01-02", "2024-13-45", "=", "<<"),
    *(
        " a",
        "a ",
        "a: b",
        "a #b",
        "- a",
        "? a",
        "#",
        "'",
        '"',
        "''",
        "\\",
        "a\nb",
        "a\n",
        "\na",
        "a\n\n  b\n",
        "a\r\nb",
    ),
    *(
        "\t",
        "\x85",
        "\u2028",
        "\xa0",
        "\ufeff",
        "\x00",
        "Überlebt ε?",
        "😀",
        "---",
        "...",
        "%YAML",
        "@a",
        "`a",
        "!a",
        "&a",
    ),
    *("*a", "{a", "[a", "]", "}", ",", "|", ">", "word " * 60, "/data/c 10", "8/255"),
]
TEXTS = st.one_of(st.sampled_from(AMBIGUOUS), st.text(st.characters(codec="utf-8")))
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(TEXTS.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


def read_as_1_1(text: str) -> object:
    reader = YAML(typ="safe", pure=True)
    reader.version = "1.1"
    return reader.load(text)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_yaml(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("010", 10),
        ("0123", 123),
        ("-08", -8),
        ("0o17", 15),
        ("0x1F", 31),
        ("19_200", 19200),
        ("1e5", 1e5),
        ("1e-05", 1e-5),
        ("1.0e+6", 1e6),
        ("1_000.5", 1000.5),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        *((word, None) for word in ("", "~", "null", "NULL")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, word) for word in ("yes", "no", "on", "off", "y", "N", "tRue", "nULL")),
        *(
            (word, word)
            for word in ("1:30", "190:20:30.15", "2024-01-02", "2024-13-45", "0b11", "1_", "_1", "1__0", "=")
        ),
        ('"010"', "010"),
        ("'null'", "null"),
    ],
)
def test_a_scalar_is_what_the_core_schema_of_1_2_says(written: str, value: object) -> None:
    found = parse_yaml(f"key: {written}")["key"]
    assert (found, type(found)) == (value, type(value))


def test_nan_is_a_number() -> None:
    assert math.isnan(parse_yaml(".nan"))


@given(TREES)
@settings(deadline=None)
def test_what_is_written_reads_back_the_same_as_1_2_and_as_1_1(tree: object) -> None:
    written = dump_yaml(tree)
    assert repr(parse_yaml(written)) == repr(tree)  # 1, 1.0 and True are equal, but not the same
    assert repr(read_as_1_1(written)) == repr(tree)


@given(st.text(st.sampled_from("ab01:-?{}[],&*!|>'\"%@`#\n\t \\.xuUfN~=<_\r\ufeff\x85\x00"), max_size=30))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse_yaml(text)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(error).startswith("line ")  # noqa: PT017


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_own_files_mean_the_same_to_either_reader(path: Path) -> None:
    assert repr(read_yaml(path)) == repr(read_as_1_1(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_studies_written_before_keep_their_form(path: Path) -> None:
    assert dump_yaml(read_yaml(path)) == path.read_text(encoding="utf-8")


def test_a_study_s_form_is_readable() -> None:
    tree = {
        "name": "a",
        "question": "Why, and at what ε?",
        "lr": 1e-5,
        "path": "/data",
        "scale": [0.1, "1:30"],
        "none": None,
    }
    assert dump_yaml(tree) == (
        "name: a\nquestion: Why, and at what ε?\nlr: 1.0e-05\npath: /data\nscale:\n- 0.1\n- '1:30'\nnone: null\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: 1, a: 2}", "line 1, column 8: not valid YAML: the key 'a' occurs twice"),
        ("a: 1\nb:\n  c: 1\n  'c': 2", "line 4, column 3: not valid YAML: the key 'c' occurs twice"),
        ("1: 2", "line 1, column 1: not valid YAML: the key 1 is not text: put it in quotes"),
        ("? [a]\n: 2", "line 1, column 3: not valid YAML: the key ['a'] is not text: put it in quotes"),
        ("a: !!int 3", "line 1, column 4: not valid YAML: tags such as tag:yaml.org,2002:int are not supported"),
        ("a: [*b]", "line 1, column 5: not valid YAML: the alias *b needs a value marked &b before it"),
        ("a: &a [*a]", "line 1, column 8: not valid YAML: the alias *a needs a value marked &a before it"),
        ("<<: 3", "line 1, column 1: not valid YAML: << takes a section, or a list of sections"),
        ("a: 1\n---\nb: 2", "line 2, column 1: not valid YAML: a second document begins here, but a file holds one"),
        (
            "%YAML 1.1\n---\na: yes",
            "line 2, column 1: not valid YAML: files are read as YAML 1.2: remove the %YAML line",
        ),
        (
            "%YAML 1.3\n---\na: yes",
            "line 1, column 1: not valid YAML: files are read as YAML 1.2: remove the %YAML line",
        ),
        (
            "a:\n\tb: 1",
            r"line 2, column 1: not valid YAML: found character '\t' that cannot start any token; write spaces",
        ),
        ("a: 1\nb: \x07", "line 2, column 4: not valid YAML: unacceptable character #x0007"),
        ('a: "\\ud800"', r"line 1, column 4: not valid YAML: '\ud800' holds half of a surrogate pair"),
        ('a: "\\Uffffffff"', "line 1, column 2: not valid YAML: an escape sequence that is no character"),
        (f"a: {'9' * 5000}", "line 1, column 4: not valid YAML: Exceeds the limit (4300 digits)"),
        ("[" * 100_000, "line 1, column 34: not valid YAML: nested more than 32 levels deep"),
        ("{a: " * 100_000, "line 1, column 130: not valid YAML: nested more than 32 levels deep"),
        ("- " * 100_000, "line 1, column 67: not valid YAML: nested more than 32 levels deep"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_wrong_is_told_with_line_and_column(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


def test_aliases_that_stand_for_billions_of_values_are_refused() -> None:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert "more than 100000 values, those that aliases repeat included" in refusal("\n".join(lines))


def test_a_chain_of_aliases_is_no_deeper_than_what_is_written_out() -> None:
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 1000))]
    assert refusal("\n".join(lines)).endswith("nested more than 32 levels deep")


def test_aliases_are_copies() -> None:
    tree = parse_yaml("a: &a {b: [1]}\nc: *a\nd: &a 2\ne: *a")
    assert tree == {"a": {"b": [1]}, "c": {"b": [1]}, "d": 2, "e": 2}
    tree["c"]["b"].append(2)
    assert tree["a"] == {"b": [1]}


def test_merged_sections_give_way_to_what_is_written_and_to_those_before_them() -> None:
    assert parse_yaml("<<: [{a: 1, b: 1}, {b: 2, c: 2}]\nc: 3") == {"a": 1, "b": 1, "c": 3}
    assert parse_yaml("c: 3\n<<: {a: 1, c: 2}") == {"a": 1, "c": 3}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_mark_at_the_start_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("ε: 8/255\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml") == {"ε": "8/255"}
