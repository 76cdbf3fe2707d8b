"""How a study chooses its points: the samplers and their keys, and the early stopping of trials."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cfamc_ray.config.components import Component, ComponentField, Registry
from cfamc_ray.config.stages import CHANGEABLE, may_change
from cfamc_ray.config.types import Real, Strict

if TYPE_CHECKING:  # configs are also read where Optuna is absent
    from optuna.samplers import BaseSampler

    from cfamc_ray.config.trial import TrialConfig

PROXY = "proxy"
"""Name of the cheaper study that runs before a study."""


class SamplerConfig(Component):
    """Chooses the next point; `build` gives an Optuna sampler."""

    attempts: ClassVar[int] = 64
    """Proposals that may be refused, because tried before or infeasible, before random points are proposed."""
    repaired: ClassVar[bool] = False
    """Whether points near its last refused proposal are proposed before random ones: for a sampler that does not know
    the constraints, and would propose the same again where the best points lie beyond their border."""
    forks: ClassVar[bool] = False
    """Whether it proposes forks (`search.fork`)."""
    learns_from_others: ClassVar[bool] = False
    """Whether it learns from trials of other studies (`search.prior`, `search.proxy`)."""
    exhaustive: ClassVar[bool] = False
    """Whether it takes all points of the space in order, as a grid does; then no random points are proposed."""
    listed: ClassVar[bool] = False
    """Whether its points are those of `start_from` alone."""

    def build(self, *, seed: int, startup_trials: int, **context: Any) -> "BaseSampler":
        """Build the sampler of one trial: every trial has its own; earlier results are read from Optuna's storage.

        Args:
            seed: seed of this trial's sampler.
            startup_trials: finished trials before the sampler learns from them.
            context: further objects that a sampler may need: `space` (a `SearchSpace`), `records` (a function that
                gives the records of the trials so far), `flops_of` (a function of a trial's config), and `earlier`
                (trials of earlier studies and their places in the space, study by study).
        """
        sampler: BaseSampler = super().build(seed=seed, startup_trials=startup_trials, **context)
        return sampler


SAMPLERS = Registry[SamplerConfig]("sampler")


@SAMPLERS.register
class FrontConfig(SamplerConfig):
    """The point with the largest expected hypervolume gain under Gaussian processes; the first ones are spread out."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:FrontSampler"
    attempts: ClassVar[int] = 256
    forks: ClassVar[bool] = True
    learns_from_others: ClassVar[bool] = True

    name: Literal["front"] = "front"


@SAMPLERS.register
class TpeConfig(SamplerConfig):
    """Optuna's tree-structured Parzen estimator."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:tpe"

    name: Literal["tpe"] = "tpe"


@SAMPLERS.register
class Nsga2Config(SamplerConfig):
    """Optuna's genetic algorithm NSGA-II, with a population of `startup_trials`."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:nsga2"

    name: Literal["nsga2"] = "nsga2"


@SAMPLERS.register
class Nsga3Config(SamplerConfig):
    """Optuna's genetic algorithm NSGA-III, with a population of `startup_trials`."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:nsga3"

    name: Literal["nsga3"] = "nsga3"


@SAMPLERS.register
class GpConfig(SamplerConfig):
    """Optuna's Gaussian process."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:gaussian_process"
    attempts: ClassVar[int] = 2  # each takes long
    repaired: ClassVar[bool] = True

    name: Literal["gp"] = "gp"


@SAMPLERS.register
class RandomConfig(SamplerConfig):
    """Random points."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:uniform"

    name: Literal["random"] = "random"


@SAMPLERS.register
class GridConfig(SamplerConfig):
    """All points that meet the constraints, in an order in which the last key of the space changes fastest."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:GridSampler"
    attempts: ClassVar[int] = sys.maxsize  # until the grid ends
    exhaustive: ClassVar[bool] = True

    name: Literal["grid"] = "grid"


@SAMPLERS.register
class ListedConfig(SamplerConfig):
    """The points of `start_from` alone, in their order."""

    implementation: ClassVar[str] = "cfamc_ray.search.samplers:GridSampler"
    attempts: ClassVar[int] = sys.maxsize  # until the list ends
    exhaustive: ClassVar[bool] = True
    listed: ClassVar[bool] = True

    name: Literal["listed"] = "listed"


class MultiObjectiveAshaConfig(Strict):
    """MO-ASHA: trials that fall behind in all objectives are stopped at rungs of their own schedule."""

    rungs: tuple[Real, ...] = Field(default=(0.25, 0.5), strict=False, min_length=1)
    """Fractions of a trial's epochs, between 0 and 1, after which it is compared with the other trials."""
    keep: Real = Field(default=0.5, gt=0, lt=1)
    """Fraction of the trials at a rung that continue: the best by non-dominated rank, then by spread."""

    @model_validator(mode="after")
    def _between_begin_and_end(self) -> "MultiObjectiveAshaConfig":
        if not all(0 < rung < 1 for rung in self.rungs):
            raise ValueError(f"rungs must lie between 0 and 1, not {list(self.rungs)}")
        return self


class ForkConfig(Strict):
    """Forks: trials that continue from the middle of another trial, their trunk, with other values of some keys.

    The trunk is trained once, and each fork pays only for its own epochs.
    """

    at: tuple[Real, ...] = Field(default=(0.5, 0.75), strict=False, min_length=1)
    """Fractions of a trial's epochs, between 0 and 1, after which forks may leave it, rounded to whole epochs."""
    change: tuple[str, ...] = Field(strict=False, min_length=1)
    """Searched keys that a fork changes, such as `[pretraining.replays, perturbation.epsilon]`: those that `stages` can
    change."""

    @model_validator(mode="after")
    def _valid(self) -> "ForkConfig":
        if not all(0 < share < 1 for share in self.at):
            raise ValueError(f"fork.at must lie between 0 and 1, not {list(self.at)}")
        for key in self.change:
            if not may_change(key):
                raise ValueError(f"fork.change: {key} cannot change in the middle of a trial: {CHANGEABLE}")
        return self

    def epochs_of(self, trial: "TrialConfig") -> list[int]:
        """Numbers of epochs after which forks may leave a trial; none for a trial that is a fork itself."""
        epochs = trial.pretraining.epochs
        return [] if trial.stages else sorted({round(share * epochs) for share in self.at} & set(range(1, epochs)))


class SearchConfig(Strict):
    """How the next point is chosen, and which trials are stopped early."""

    sampler: Annotated[SamplerConfig, ComponentField(SAMPLERS, FrontConfig)] = FrontConfig()
    """How the next point is chosen."""
    startup_trials: int = Field(default=6, ge=1)
    """Finished trials before a sampler learns from them; until then `front` takes points that are spread along every
    key, and the others take random points. Also the population of the genetic algorithms."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler; with one trial at a time it determines all points."""
    mo_asha: MultiObjectiveAshaConfig | None = None
    """Early stopping of trials. Null: every trial runs to its end."""
    fork: ForkConfig | None = None
    """Forks of trials on the front, proposed where their expected gain for a crop pass is larger than that of a trial
    of its own. Null: no forks."""

    prior: tuple[str, ...] = Field(default=(), strict=False)
    """Folders of earlier studies, such as one of fewer images or a narrower encoder. Their trials teach the sampler
    `front` how the searched keys act, up to differences between the studies, which it learns as well. Their records are
    copied into the study's folder when it begins. Epochs are compared by the images seen."""
    proxy: tuple[str, ...] = Field(default=(), strict=False)
    """Overrides, as after `--set`, that make a cheaper study of the same space, such as
    `[encoder.width=8, data.pretrain_images=1000, budget.trials=16]`. It runs first, in the study's folder, and is then
    an earlier study as those of `prior`. Empty: no such study."""

    @model_validator(mode="after")
    def _sampler_can(self) -> "SearchConfig":
        wanted = {"fork": self.fork, "prior": self.prior, "proxy": self.proxy}
        for key, ability in (("fork", "forks"), ("prior", "learns_from_others"), ("proxy", "learns_from_others")):
            if wanted[key] and not getattr(self.sampler, ability):
                names = ", ".join(name for name, sampler in SAMPLERS.classes.items() if getattr(sampler, ability))
                raise ValueError(
                    f"{key}: sampler {self.sampler.component_name()} cannot use it; choose {names}, or leave {key} out"
                )
        return self
