"""Read a study from a space file and overrides, and check its keys and the points of its space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import read_tree, resolve
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.search import PROXY
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.space.search_space import SearchSpace


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a space file and check all of it.

    Args:
        path: the YAML file.
        overrides: ``key=value`` as typed after ``--set``; keys of a study (``budget.trials``), or of a trial
            (``crops.views``) or ``base``, which are then no longer searched.

    Raises:
        InputError: if the file or an override is wrong.
    """
    return resolve_study(read_tree(path), overrides, source=str(path))


def resolve_study(tree: dict[str, Any], overrides: Sequence[str] = (), *, source: str) -> StudyConfig:
    """Check the keys of a study, and the points of its space.

    Args:
        tree: the keys; the overrides change it in place.
        overrides: as in `read_study`.
        source: where the keys come from, for error messages.

    Raises:
        InputError: if a key or an override is wrong.
    """
    return resolve(StudyConfig, tree, overrides, source=source, check=_check_study)


def _check_study(study: StudyConfig) -> None:
    SearchSpace(study).check()
    if study.search.proxy:
        proxy_study(study)


def proxy_study(study: StudyConfig) -> StudyConfig:
    """The cheaper study that runs before a study (`search.proxy`); its front is not confirmed.

    Raises:
        InputError: if an override is wrong, or changes the objectives.
    """
    tree = study.model_dump(mode="json")
    tree |= {"name": PROXY, "question": f"Where does the front of {study.name} lie, at a lower cost?"}
    tree |= {"confirm": None, "loggers": []}
    tree["search"] |= {"prior": [], "proxy": []}
    try:
        proxy = resolve_study(tree, study.search.proxy, source=PROXY)
    except InputError as error:
        raise InputError(f"search.proxy: {error}") from None
    if proxy.objectives != study.objectives:
        raise InputError("search.proxy: cannot change the objectives, for the study learns from them")
    return proxy


def read_scaling(path: Path, overrides: Sequence[str] = ()) -> ScalingConfig:
    """Read the file of a scaling study and check all of it; arguments and errors as in `read_study`."""
    return resolve_scaling(read_tree(path), overrides, source=str(path))


def resolve_scaling(tree: dict[str, Any], overrides: Sequence[str] = (), *, source: str) -> ScalingConfig:
    """Check the keys of a scaling study; arguments and errors as in `resolve_study`."""
    return resolve(ScalingConfig, tree, overrides, source=source, check=_check_learning)


def _check_learning(config: ScalingConfig) -> None:
    if config.learning_points:
        SearchSpace(config.learning_study).check()
