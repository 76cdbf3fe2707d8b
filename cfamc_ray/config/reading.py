"""From a space file and the command line's overrides to a `StudyConfig`, with errors that name file, key and remedy."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cfamc_ray.config.components import branch, component_field, import_plugins, lay
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.protocol import HEADS, PROTOCOLS, ProtocolConfig
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import METRICS, StudyConfig
from cfamc_ray.config.trial import TrialConfig, lay_trials, trial_keys
from cfamc_ray.config.types import Strict
from cfamc_ray.config.yaml12 import dump_yaml, parse_yaml, read_yaml

Config = TypeVar("Config", StudyConfig, ScalingConfig)

PACKAGE = Path(__file__).resolve().parent.parent
SPACE_FOLDERS = (Path("search_spaces"), PACKAGE / "search_spaces", PACKAGE.parent / "search_spaces")
"""Where a bare name is looked up: the working directory's, the wheel's, and the checkout's."""
LONGEST = 200
"""Characters of a wrong value that an error repeats."""


def find_space(name: str) -> Path:
    """The file of a space given as a path or as a bare name such as ``pareto.yaml``.

    Raises:
        InputError: where there is none; the message lists the spaces that there are.
    """
    candidates = [Path(name), *(folder / file for folder in SPACE_FOLDERS for file in (name, f"{name}.yaml"))]
    for path in candidates:
        if path.is_file():
            return path
    known = sorted({path.name for folder in SPACE_FOLDERS for path in folder.glob("*.yaml")})
    raise InputError(f"{name}: no such file, and no space of this name. Spaces at hand: {', '.join(known) or 'none'}")


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read and validate a space file.

    Args:
        path: the YAML file.
        overrides: ``key=value`` as typed after ``--set``; keys of a study (``budget.trials``), or of a trial
            (``crops.views``) or ``base``, which then is no longer searched.

    Raises:
        InputError: for everything that is wrong with the file or an override.
    """
    return resolve_study(read_tree(path), overrides, source=str(path))


def read_scaling(path: Path, overrides: Sequence[str] = ()) -> ScalingConfig:
    """Read and validate the file of a scaling study; arguments and errors as for `read_study`."""
    return resolve_scaling(read_tree(path), overrides, source=str(path))


def read_resolved(model: type[Config], path: Path) -> Config:
    """Read what `dump_study` wrote, which has every key: without its end it would be another study.

    Args:
        model: of the study.
        path: of the file.

    Raises:
        InputError: where it is missing, damaged or of another version.
    """
    return _resolve(model, read_resolved_tree(model, path), (), source=str(path))


def read_resolved_tree(model: type[Config], path: Path) -> dict[str, Any]:
    """The keys of such a file, whose values have not been looked at; arguments and errors as for `read_resolved`."""
    tree, last = read_tree(path), list(model.model_fields)[-1]
    if last not in tree or not path.read_bytes().endswith(b"\n"):
        raise InputError(f"{path}: its end is missing (the last key is {last})")
    return tree


def resolve_study(tree: dict[str, Any], overrides: Sequence[str] = (), *, source: str) -> StudyConfig:
    """Validate the keys of a study.

    Args:
        tree: the keys; changed by the overrides.
        overrides: as for `read_study`.
        source: where the keys are from, for errors.

    Raises:
        InputError: for everything that is wrong with a key or an override.
    """
    return _resolve(StudyConfig, tree, overrides, source=source)


def resolve_scaling(tree: dict[str, Any], overrides: Sequence[str] = (), *, source: str) -> ScalingConfig:
    """Validate the keys of a scaling study; arguments and errors as for `resolve_study`."""
    return _resolve(ScalingConfig, tree, overrides, source=source)


def _resolve(model: type[Config], tree: dict[str, Any], overrides: Sequence[str], *, source: str) -> Config:
    for override in overrides:
        _override(tree, override, model)
    plugins = tree.get("plugins")
    import_plugins(plugins if isinstance(plugins, list | tuple) else ())
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        where = f"{source} with --set {', '.join(overrides)}" if overrides else source
        raise InputError("\n".join(f"{where}: {problem}" for problem in _problems(error, model))) from None


def resolve_protocol(name: str, *, head: str | None = None, overrides: Sequence[str] = ()) -> ProtocolConfig:
    """A protocol of `PROTOCOLS`, with another head of `HEADS` and with some keys changed.

    Raises:
        InputError: for everything that is wrong with an override.
    """
    tree = PROTOCOLS[name].model_dump()
    tree = tree if head is None else {**tree, "head": HEADS[head].model_dump()}
    for override in overrides:
        tree = lay(ProtocolConfig, tree, branch(*_key_and_value(override)))
    try:
        return ProtocolConfig.model_validate(tree)
    except ValidationError as error:
        where = f"protocol {name} with --set {', '.join(overrides)}"
        raise InputError("\n".join(f"{where}: {problem}" for problem in _problems(error, ProtocolConfig))) from None


def dump_study(config: StudyConfig | ScalingConfig) -> str:
    """The study as YAML that `read_study`, or `read_scaling`, reads back to an equal one."""
    return dump_yaml(config.model_dump(mode="json"))


def read_tree(path: Path) -> dict[str, Any]:
    """The keys of a study as its file has them; none of them has been looked at.

    Raises:
        InputError: where it is no YAML, or has no keys.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: must hold keys of a study ({', '.join(StudyConfig.model_fields)}), not {tree!r}")
    return tree


def _key_and_value(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"--set {override}: write key=value, as in --set budget.trials=20")
    if key.endswith(".path") and not text.startswith(("'", '"')) and text not in ("", "null", "~"):
        return key, text  # a file may be called what means something else in YAML
    try:
        return key, parse_yaml(text)
    except InputError as error:
        raise InputError(f"--set {override}: in its value, {error}") from None


def _override(tree: dict[str, Any], override: str, model: type[Strict]) -> None:
    key, value = _key_and_value(override)
    first, *rest = key.split(".")
    if first in TrialConfig.model_fields:
        first, rest = "trial", [first, *rest]
    if first not in model.model_fields:
        known = [*model.model_fields, *TrialConfig.model_fields]
        raise InputError(f"--set {override}: there is no key {first!r}{_nearest(first, known)}")
    if first == "space" and rest:
        rest = [".".join(rest)]
    if first in ("trial", "base") and isinstance(tree.get("space"), dict):
        key = ".".join(rest) or first
        tree["space"] = {
            name: value for name, value in tree["space"].items() if name != key and not str(name).startswith(f"{key}.")
        }
    section = tree
    for name in [first, *rest][:-1]:
        child = section.setdefault(name, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {name} holds the value {child!r}, so it has no keys")
        section = child
    if first == "trial" and not isinstance(value, Mapping):
        tree["trial"] = lay_trials(tree["trial"], branch(".".join(rest), value))
    else:
        section[[first, *rest][-1]] = value


def _problems(error: ValidationError, model: type[Strict]) -> Iterator[str]:
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        match problem["type"]:
            case "extra_forbidden":
                *parents, name = location
                of_trial = "trial" in model.model_fields and not parents and name in TrialConfig.model_fields
                nearest = f"; did you mean trial.{name}?" if of_trial else _nearest(name, _fields_at(model, parents))
                if model is StudyConfig and location == ["learning"]:
                    nearest = ": this is a scaling study, for python -m cfamc_ray.scale"
                yield f"unknown key {key}{nearest}"
            case "string_pattern_mismatch":
                yield f"{key}: must be letters, digits, dots, dashes and underscores" + _given(problem["input"])
            case "bool_type":
                yield f"{key}: must be true or false" + _given(problem["input"])
            case "missing":
                yield f"the key {key} is missing"
            case "value_error":
                message = problem["msg"].removeprefix("Value error, ")
                yield f"{key}: {message}" + _given(problem["input"]) if key else message + _nearest_space_key(message)
            case _:
                yield f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}" + _given(problem["input"])


def _given(value: object) -> str:
    if isinstance(value, Mapping | BaseModel):
        return ""
    text = repr(value)
    return f" (it is {text if len(text) <= LONGEST else text[:LONGEST] + '…'})"


def _fields_at(model: Any, location: Iterable[str]) -> list[str]:
    for name in location:
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        if field and (mark := component_field(field)):
            return mark.registry.keys()
        model = field.annotation if field else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def _nearest_space_key(message: str) -> str:
    if message.startswith("objectives: no trial reports"):
        return _nearest(message.rpartition("reports ")[2].strip("'"), list(METRICS))
    if message.startswith("space.") and "no such key" in message:
        return _nearest(message.split(":", maxsplit=1)[0].removeprefix("space."), [*trial_keys(), "base"])
    return ""


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""
