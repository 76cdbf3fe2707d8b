"""Reading and writing YAML 1.2 (core schema), where ``010`` is ten and ``no``, ``1:30`` and dates are text."""

import codecs
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.representer import SafeRepresenter

from cfamc_ray.config.errors import InputError

DEEPEST = 32
"""Largest nesting of sections and lists: more than any file needs, less than Python's stack allows."""
MOST_VALUES = 100_000
"""Largest number of values of a file, repetitions by aliases included: a few lines of aliases could mean billions."""

CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
DIGITS = "[0-9]+(?:_[0-9]+)*"
INTEGER = re.compile(rf"[-+]?{DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(rf"[-+]?(\.[0-9]+|{DIGITS}(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
"""Numbers as in the core schema (YAML 1.2, section 10.3.2), and digits in groups, such as 19_200."""
MERGE = "<<"
OTHER_VERSION = "files are read as YAML 1.2: remove the %YAML line"
WORDS_OF_1_1 = {"y", "n", "yes", "no", "on", "off"}


def read_yaml(path: Path) -> Any:
    """Read the single document of a file, in UTF-8 or, if it starts with a byte order mark, UTF-16.

    Raises:
        InputError: names the file and, for an error in the text, line and column.
    """
    try:
        data = path.read_bytes()
        marked_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if marked_16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return parse_yaml(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """Parse a single document into dicts, lists, str, int, float, bool and None; aliases become copies.

    Raises:
        InputError: if the text is not valid YAML, repeats a key, has keys that are not text, tags, a second document or
            another version, or is too deep or too large; the message has line and column.
    """
    try:
        return _Document(text).read()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        remedy = "; write spaces instead of tabs" if r"'\t'" in str(error.problem) else ""
        raise InputError(f"{where}not valid YAML: {error.problem}{remedy}") from None
    except YAMLError as error:  # a character that YAML does not allow
        before = text[: getattr(error, "position", 0)]
        where = f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        raise InputError(f"{where}: not valid YAML: {str(error).partition(chr(10))[0]}") from None


def dump_yaml(tree: object) -> str:
    """The tree as YAML, which `parse_yaml` and any reader of YAML 1.1 read back to an equal tree."""
    written = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 120
    writer.dump(tree, written)
    return written.getvalue()


class _Document:
    """One document, built from the parser's events, so that text which YAML 1.1 would convert stays text."""

    def __init__(self, text: str) -> None:
        self.events = _events(text)
        self.anchored: dict[str, Any] = {}
        self.values = 0

    def read(self) -> Any:
        next(self.events)  # the start of the stream
        start = next(self.events)
        if isinstance(start, StreamEndEvent):
            return None
        if start.version not in (None, (1, 2)):
            raise _at(start, OTHER_VERSION)
        tree = self._value(next(self.events), depth=0)
        next(self.events)  # the end of the document
        end = next(self.events)
        if not isinstance(end, StreamEndEvent):
            raise _at(end, "a second document begins here, but a file holds one")
        return tree

    def _value(self, event: Any, depth: int) -> Any:
        self._count(event, depth)
        if isinstance(event, AliasEvent):
            if event.anchor not in self.anchored:
                raise _at(event, f"the alias *{event.anchor} needs a value marked &{event.anchor} before it")
            return self._copy(self.anchored[event.anchor], event, depth)
        if event.tag is not None:
            raise _at(event, f"tags such as {event.tag} are not supported: put text in quotes")
        value: Any
        if isinstance(event, MappingStartEvent):
            value = self._mapping(depth + 1)
        elif isinstance(event, SequenceStartEvent):
            value = [self._value(item, depth + 1) for item in self._until(SequenceEndEvent)]
        else:
            value = _scalar(event)
        if event.anchor:
            self.anchored[event.anchor] = value
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for event in self._until(MappingEndEvent):
            key = self._value(event, depth)
            if not isinstance(key, str):
                raise _at(event, f"the key {key!r} is not text: put it in quotes")
            if key in written:
                raise _at(event, f"the key {key!r} occurs twice")
            written[key] = self._value(next(self.events), depth)
            if key == MERGE and not all(isinstance(section, dict) for section in _merged(written)):
                raise _at(event, f"{MERGE} takes a section, or a list of sections")
        for section in _merged(written):
            written = {**section, **written}
        written.pop(MERGE, None)
        return written

    def _until(self, end: type[Event]) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def _copy(self, value: Any, event: Any, depth: int) -> Any:
        """Copy a value, because a change at one place must not change the other."""
        self._count(event, depth)
        if isinstance(value, dict):
            return {key: self._copy(child, event, depth + 1) for key, child in value.items()}
        return [self._copy(child, event, depth + 1) for child in value] if isinstance(value, list) else value

    def _count(self, event: Any, depth: int) -> None:
        self.values += 1
        if depth > DEEPEST:
            raise _at(event, f"nested more than {DEEPEST} levels deep")
        if self.values > MOST_VALUES:
            raise _at(event, f"more than {MOST_VALUES} values, those that aliases repeat included")


def _events(text: str) -> Iterator[Any]:
    event = None
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            yield event
    except (ValueError, OverflowError):
        raise _after(event, "an escape sequence that is no character") from None
    except AssertionError:
        raise _after(event, OTHER_VERSION) from None


def _merged(mapping: dict[str, Any]) -> list[Any]:
    sections = mapping.get(MERGE, [])
    return sections if isinstance(sections, list) else [sections]


def _scalar(event: Any) -> Any:
    plain, _ = event.implicit
    try:
        event.value.encode()  # an escape can be half of a surrogate pair, which cannot be encoded
        return _resolve(event.value) if plain else event.value
    except UnicodeEncodeError:
        raise _at(event, f"{event.value!r} holds half of a surrogate pair") from None
    except ValueError as error:  # more digits than Python converts
        raise _at(event, str(error).partition(";")[0]) from None


def _resolve(text: str) -> Any:
    """The value of a scalar without quotes."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _at(event: Any, problem: str) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _after(event: Any, problem: str) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=event.end_mark)


class _Representer(SafeRepresenter):
    """Writes values so that YAML 1.1 reads the same: 'no' and '1:30' with quotes, 1e-05 as 1.0e-05."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        word = (data[:1].isalpha() or data[:1] == "/") and data.lower() not in WORDS_OF_1_1
        style = '"' if not data.isprintable() else None if word else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_float(self, data: float) -> Any:
        node = super().represent_float(data)
        node.value = re.sub(r"^(-?\d+)e", r"\1.0e", node.value)
        return node


_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(float, _Representer.represent_float)
