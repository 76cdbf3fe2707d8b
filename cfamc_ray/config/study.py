"""A study: a question, objectives, a space of trials, a budget and the machines it may use.

This is the schema: it checks each key, and whether keys are consistent with each other. The points themselves, and
whether a study can run with them, are the matter of `cfamc_ray.space.search_space`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from cfamc_ray.config.active_keys import active, component_sections, has_key
from cfamc_ray.config.budget import BudgetConfig
from cfamc_ray.config.components import branch
from cfamc_ray.config.confirm import ConfirmConfig
from cfamc_ray.config.constraints import Constraint
from cfamc_ray.config.errors import InputError, message_of, nearest
from cfamc_ray.config.measures import MEASURES
from cfamc_ray.config.ranges import FloatRange, Range, dump_range, parse_range
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe
from cfamc_ray.config.resources import ResourceConfig
from cfamc_ray.config.search import SearchConfig
from cfamc_ray.config.stages import stages_of, without_trunk
from cfamc_ray.config.trial import TrialConfig, lay_trials, trial_keys, without_paths
from cfamc_ray.config.types import Real, Scalar, Strict, plain
from cfamc_ray.metrics import Direction, find_objective

Point = Mapping[str, Scalar]
"""Searched keys and their values; of a fork also those of its trunk (`cfamc_ray.config.stages`)."""

LoggerName = Literal["mlflow", "wandb"]

IDENTITY = {"objectives", "search", "variant", "trial", "space", "constraints"}


class StudyConfig(Strict):
    """A space file, resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    """Name of the study and of its folder."""
    question: str = ""
    """The question that the study should answer, in a sentence."""
    plugins: tuple[str, ...] = Field(default=(), strict=False)
    """Your own modules that register components; every process imports them (docs/extending.md)."""
    objectives: dict[str, Direction] = Field(
        default={"clean_accuracy": "maximize", "robust_accuracy": "maximize"}, min_length=1
    )
    """Metrics of a trial and their directions; the front is taken over all of them."""
    reference: dict[str, Real] = {}
    """Worst value of an objective that still counts for the hypervolume. Defaults: 0 for an objective that is
    maximised, the worst finished value for one that is minimised."""
    search: SearchConfig = SearchConfig()
    budget: BudgetConfig = BudgetConfig()
    resources: ResourceConfig = ResourceConfig()
    confirm: ConfirmConfig | None = None
    """Confirmation of the front. Null: the front is what the search measured once, on validation images."""
    start_from: tuple[str | dict[str, Annotated[Scalar, BeforeValidator(plain)]], ...] = Field(default=(), strict=False)
    """First points: names of recipes, which give the values of the searched keys, or points written as
    `{crops.views: 4, …}` with a value for each searched key."""
    keep_encoders: Literal["front", "all"] = "front"
    """Trials whose encoders are kept in the study folder at the end."""
    loggers: tuple[LoggerName, ...] = Field(default=(), strict=False)
    """Other tools in which each trial is a run, beside TensorBoard (docs/commands.md)."""
    base: str | None = None
    """Recipe that all trials start from; keys of `trial` override it. As a key of `space` it is searched."""
    variant: Variant = "corrected"
    """Variant of the recipes: corrected, or published, with every undocumented choice of the published code."""
    trial: TrialConfig = TrialConfig()
    """Keys that all trials share; keys that are not given come from the recipe, or else have the defaults below."""
    space: dict[str, Range] = {}
    """Searched keys and their ranges: dotted keys of a trial, or `base`."""
    constraints: tuple[Constraint, ...] = Field(default=(), strict=False)
    """Comparisons between keys that every point must meet."""

    @model_validator(mode="before")
    @classmethod
    def _lay_on_recipe(cls, tree: Any) -> Any:
        match tree:
            case {"base": str(name)}:
                variant, written = tree.get("variant", VARIANTS[0]), tree.get("trial", {})
                if isinstance(written, TrialConfig):
                    written = written.model_dump(exclude_unset=True)
                if variant not in VARIANTS or not isinstance(written, Mapping):
                    return tree  # validation of these keys refuses it
                try:
                    return {**tree, "trial": lay_trials(read_recipe(name).tree(variant), written)}
                except InputError as error:
                    raise ValueError(f"base: {error}") from None
        return tree

    @field_validator("space", mode="before")
    @classmethod
    def _parse_space(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        ranges: dict[object, Range] = {}
        for key, written in value.items():
            try:
                ranges[key] = parse_range(written)
            except ValidationError as error:
                problem = error.errors()[0]
                inner = ".".join(str(part) for part in problem["loc"])
                given = f" (it is {problem['input']!r})" if inner else ""
                raise ValueError(f"{key} {inner}: {_first_message(error)}{given}".replace(" : ", " ")) from None
            except ValueError as error:
                raise ValueError(f"{key} {error}") from None
        return ranges

    @field_validator("constraints", mode="before")
    @classmethod
    def _parse_constraints(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        constraints = []
        for written in value:
            try:
                constraints.append(written if isinstance(written, Constraint) else Constraint(str(written)))
            except ValueError as error:
                raise ValueError(f"{written!r} {error}") from None
        return tuple(constraints)

    @field_serializer("trial")
    def _dump_trial(self, value: TrialConfig, info: SerializationInfo) -> dict[str, Any]:
        """Where recipes are searched, leave out keys that were not written, so that the recipes set them."""
        return value.model_dump(mode=info.mode, exclude_unset="base" in self.space)

    @field_serializer("space")
    def _dump_space(self, value: dict[str, Range]) -> dict[str, object]:
        return {key: dump_range(written) for key, written in value.items()}

    @field_serializer("constraints")
    def _dump_constraints(self, value: tuple[Constraint, ...]) -> list[str]:
        return [constraint.text for constraint in value]

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        measured = [measure.component_name() for measure in self.trial.evaluation.measures]
        for name in self.objectives:
            find_objective(name)  # refuses what no trial reports
            if name in MEASURES.classes and name not in measured:
                raise ValueError(f"objectives: no trial measures {name}: write it under trial, evaluation, measures")
        for name in self.reference:
            if name not in self.objectives:
                raise ValueError(f"reference: {name} is not among the objectives {', '.join(self.objectives)}")
        self._check_bases()
        for key, written in self.space.items():
            self._check_range(key, written)
        self._check_constraints()
        self._check_forks()
        sampler = self.search.sampler
        if sampler.exhaustive and bool(self.start_from) != sampler.listed:
            why = "takes its points: list some" if sampler.listed else "has its own order; leave one of them out"
            raise ValueError(f"start_from: search.sampler {sampler.component_name()} {why}")
        return self

    def _check_bases(self) -> None:
        if "base" not in self.space:
            if self.base is None and self.variant != "corrected":
                raise ValueError(f"variant: {self.variant} is one of a recipe: name it, as in base: cf-amc-ssl")
            return
        if self.base is not None:
            raise ValueError(f"base: {self.base} cannot be the recipe of all trials, for space.base searches it")
        for name in self.space["base"].edges():
            if not isinstance(name, str):
                raise ValueError(f"space.base: {name!r} is no recipe: write {{choice: [cf-amc-ssl, simclr-crops-pgd]}}")
            try:
                self.trial_at({"base": name})
            except ValidationError as error:
                raise ValueError(f"space.base: trial and {name} do not fit: {_first_message(error)}") from None
            except InputError as error:
                raise ValueError(f"space.base: {error}") from None

    def _check_range(self, key: str, written: Range) -> None:
        """Refuse a key that no trial has, and bounds or values that the key cannot have."""
        if key == "base":
            return
        if key not in trial_keys():
            raise ValueError(f"space.{key}: no such key of a trial{nearest(key, [*trial_keys(), 'base'])}")
        sampler = self.search.sampler
        if sampler.exhaustive and not sampler.listed and isinstance(written, FloatRange):
            raise ValueError(
                f"space.{key}: search.sampler {sampler.component_name()} cannot take all real numbers from "
                f"{written.bounds[0]:g} to {written.bounds[1]:g}: write some of them, as in {{choice: [0.1, 0.3]}}"
            )
        for choice, edge in product(self._choices_with(key), written.edges()):
            try:
                self.trial_at({**choice, key: edge})
            except ValidationError as error:
                # A rule between several keys is a matter of the sampled points, not of one key's bounds.
                if any(problem["loc"] for problem in error.errors()):
                    raise ValueError(f"space.{key}: {_first_message(error)} (it is {edge!r})") from None

    def _choices_with(self, key: str) -> Sequence[Point]:
        """Values of the searched recipes and components with which a trial has a key; one empty choice for most keys.

        Raises:
            ValueError: if the key belongs to a component that no trial has.
        """
        within = {each: mark for each, mark in component_sections(TrialConfig).items() if key.startswith(f"{each}.")}
        above = {section: mark for section, mark in within.items() if key != mark.name_key(section)}
        if not above:
            return [{}]
        names = ("base", *(mark.name_key(section) for section, mark in above.items()))
        choosing = [name for name in names if name in self.space]
        choices = [
            dict(zip(choosing, values, strict=True))
            for values in product(*(self.space[name].edges() for name in choosing))
        ]
        with_key = [choice for choice in choices if has_key(self.tree_at({**choice, key: None}), key)]
        if not with_key:
            section, mark = list(above.items())[-1]
            own = key.removeprefix(f"{section}.").split(".")[0]
            owners = [name for name, component in mark.registry.classes.items() if own in component.model_fields]
            raise ValueError(
                f"space.{key}: no {mark.registry.kind} of this study has this key, which belongs to "
                f"{', '.join(owners)}: set or search {mark.name_key(section)} too, or leave the key out"
            )
        return with_key

    def _check_forks(self) -> None:
        fork = self.search.fork
        for key in fork.change if fork else ():
            if key not in self.space:
                raise ValueError(f"search.fork.change: {key} is not a key of space: {', '.join(self.space)}")
        if fork and self.trial.stages:
            raise ValueError("search.fork: a trial with stages cannot be forked; leave trial.stages out")

    def _check_constraints(self) -> None:
        for constraint in self.constraints:
            for key in constraint.keys:
                try:
                    self.value_at({}, self.trial, key)
                except ValueError as error:
                    raise ValueError(f"constraints: {constraint.text!r} {error}") from None

    def trial_at(self, point: Point) -> TrialConfig:
        """The trial of a point: the point's values override the shared keys, which override the point's recipe.

        Values of keys that the trial's components do not have are ignored.

        Raises:
            pydantic.ValidationError: if they make no valid trial.
            InputError: if there is no such recipe.
        """
        return TrialConfig.model_validate(self.tree_at(point))

    def tree_at(self, point: Point) -> dict[str, Any]:
        """The explicitly set keys of a point's trial; arguments and errors as in `trial_at`."""
        values, stages = without_trunk(point), stages_of(point)
        base = values.pop("base", None)
        branches = (branch(*item) for item in values.items())
        tree = active(TrialConfig, lay_trials(self._shared_tree(base), *branches))
        return tree | ({"stages": stages} if stages else {})

    def _shared_tree(self, base: Scalar | None) -> dict[str, Any]:
        """The keys of all trials of a recipe; kept, since a search asks for thousands of points."""
        trial, tree = self._shared_trees.get((base, self.variant), (None, {}))
        if trial is not self.trial:  # nothing was kept, or by the study that this one is a changed copy of
            recipe = read_recipe(str(base)).tree(self.variant) if base is not None else {}
            tree = lay_trials(recipe, self.trial.model_dump(exclude_unset=True))
            self._shared_trees[base, self.variant] = self.trial, tree
        return tree

    @cached_property
    def _shared_trees(self) -> dict[tuple[Scalar | None, Variant], tuple[TrialConfig, dict[str, Any]]]:
        return {}

    def value_at(self, point: Point, trial: TrialConfig, key: str) -> Any:
        """The value of a key in a constraint: `base`, a key of the trial, or a derived quantity.

        Args:
            point: searched keys and their values.
            trial: trial of the point.
            key: key such as ``crops.views`` or ``crop_passes``.

        Raises:
            ValueError: if there is no such key.
        """
        return point.get("base", self.base) if key == "base" else trial.value_of(key)

    def identity(self) -> dict[str, Any]:
        """Keys that must not change when a study is resumed; the budget, resources, texts and paths may change."""
        tree = self.model_dump(mode="json", include=IDENTITY)
        return {**tree, "trial": without_paths(tree["trial"])}


def _first_message(error: ValidationError) -> str:
    return message_of(error.errors()[0])
