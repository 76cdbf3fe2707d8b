"""Recipes: the published systems and related ones by name, in a corrected and a published variant."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, field_validator

from cfamc_ray.config.errors import InputError, unknown
from cfamc_ray.config.trial import TrialConfig, lay_trials
from cfamc_ray.config.types import Real, Strict
from cfamc_ray.config.yaml12 import read_yaml

FOLDER = Path(__file__).resolve().parent
Variant = Literal["corrected", "published"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""`corrected`: the defaults of a trial. `published`: every undocumented choice of the published code."""

Percent = Annotated[Real, Field(ge=0, le=100)]


class PublishedRow(NamedTuple):
    """Published accuracies in percent: clean, and under l∞ PGD at two radii."""

    clean: Percent
    robust_4: Annotated[Percent, Field(alias="4/255")]
    """Robust accuracy at radius 4/255."""
    robust_8: Annotated[Percent, Field(alias="8/255")]
    """Robust accuracy at radius 8/255."""


class Published(Strict):
    """Results that the paper reports for a system (arXiv 2501.03507, ResNet-18)."""

    cifar10: PublishedRow
    cifar100: PublishedRow
    minutes: Real = Field(gt=0)
    """Minutes of pretraining; the paper does not name the GPU."""


class Recipe(Strict):
    """A named system, written as its differences from other recipes."""

    name: str
    summary: str
    """What the system is, in a sentence."""
    base: tuple[str, ...] = Field(default=(), strict=False)
    """Recipes that this one changes; each overrides the ones before it."""
    published: Published | None = None
    differences: dict[str, Any] = Field(default={}, alias="trial")
    """Keys of a trial that this recipe sets, as in a space file."""
    variants: dict[Variant, dict[str, Any]] = {}
    """Keys of a trial that are set in one variant only."""

    @field_validator("base")
    @classmethod
    def _known(cls, bases: tuple[str, ...]) -> tuple[str, ...]:
        for base in bases:
            read_recipe(base)
        return bases

    def tree(self, variant: Variant = "corrected") -> dict[str, Any]:
        """All keys of a trial that the recipe sets, including those of its bases."""
        own = self._own(variant)
        return (
            own
            if variant == "corrected"
            else lay_trials(own, _read(FOLDER / "variants" / f"{variant}.yaml").differences)
        )

    def _own(self, variant: Variant) -> dict[str, Any]:
        bases = [read_recipe(base)._own(variant) for base in self.base]
        return lay_trials(*bases, self.differences, self.variants.get(variant, {}))

    def trial(self, variant: Variant = "corrected") -> TrialConfig:
        """The trial config of the recipe."""
        return TrialConfig.model_validate(self.tree(variant))


def recipe_names() -> list[str]:
    """Names of all recipes: the paper's own first, then EMP-SSL and SimCLR."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe by name.

    Raises:
        InputError: if there is none (the message has the nearest name and all names), or if its file is invalid.
    """
    known = recipe_names()
    if name not in known:
        raise InputError(unknown("recipe", name, known))
    return _read(FOLDER / f"{name}.yaml")


@cache
def _read(path: Path) -> Recipe:
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: must hold the keys of a recipe, not {tree!r}")
    try:
        recipe = Recipe.model_validate({"name": path.stem, **tree})
        recipe.trial()
    except ValidationError as error:
        section = [] if error.title == "Recipe" else ["trial"]
        problems = [(".".join(map(str, [*section, *problem["loc"]])), problem["msg"]) for problem in error.errors()]
        raise InputError("\n".join(f"{path}: {key}: {message}" for key, message in problems)) from None
    return recipe
