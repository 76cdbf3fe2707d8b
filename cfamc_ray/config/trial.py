"""The config of a trial: all keys that determine its result, and the quantities derived from them.

The field docstrings are the reference of every key; the defaults are the paper's recipe (arXiv 2501.03507) with the
corrected variant of each undocumented choice of the published code.
"""

from collections.abc import Mapping
from functools import partial, reduce
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from cfamc_ray.config.components import Component, ComponentField, branch, keys_of, lay
from cfamc_ray.config.data import Cifar10Config, DataConfig, DataSet
from cfamc_ray.config.digests import digest_of
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.errors import message_of
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.losses import LOSSES, EmpSslConfig, LossConfig
from cfamc_ray.config.method import CropsConfig, PretrainingConfig
from cfamc_ray.config.optimizers import OPTIMIZERS, LarsConfig, OptimizerConfig
from cfamc_ray.config.perturbation import PERTURBATIONS, FreeAttackConfig, PerturbationConfig
from cfamc_ray.config.stages import Stage
from cfamc_ray.config.types import Strict


class TrialConfig(Strict):
    """Config of one trial: trials with equal configs, hardware, threads and workers give equal numbers."""

    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, the order of the images, the crops and the attacks' starts."""
    data: DataSet = Cifar10Config()
    """Data set, and how many of its images are used for pretraining, probe and validation."""
    crops: CropsConfig = CropsConfig()
    perturbation: Annotated[PerturbationConfig, ComponentField(PERTURBATIONS, FreeAttackConfig)] = FreeAttackConfig()
    """Inner maximisation, which moves one perturbation per crop."""
    encoder: EncoderConfig = EncoderConfig()
    loss: Annotated[LossConfig, ComponentField(LOSSES, EmpSslConfig)] = EmpSslConfig()
    """Loss that pretraining minimises and the inner maximisation maximises."""
    optimizer: Annotated[OptimizerConfig, ComponentField(OPTIMIZERS, LarsConfig)] = LarsConfig()
    """Updates the weights."""
    pretraining: PretrainingConfig = PretrainingConfig()
    stages: tuple[Stage, ...] = Field(default=(), strict=False)
    """Stages that come before the last one: a number of epochs, and the values of some keys in them, such as
    `{epochs: 4, values: {pretraining.replays: 1}}`. Keys of `crops` (not its size), `perturbation` and `loss` (not its
    name) and `pretraining.replays` can change. At each epoch the learning rate is the one that a trial with the stage's
    values in all epochs would have."""
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TrialConfig":
        if self.pretraining.batch_images > self.data.pretrain_images:
            raise ValueError(
                f"pretraining.batch_images {self.pretraining.batch_images} exceeds "
                f"data.pretrain_images {self.data.pretrain_images}: an epoch would have no minibatch"
            )
        for key, data in (("data", self.data), ("evaluation.transfer", self.evaluation.transfer)):
            if data is not None and data.validation_images == 1:
                raise ValueError(f"{key}.validation_images must be 0 or at least 2, not 1")
        sizes = {
            f"{key}.image_size": data.resized
            for key, data in (("data", self.data), ("evaluation.transfer", self.evaluation.transfer))
            if data is not None and data.resized
        }
        for key, size in {"crops.size": self.crops.size, **sizes}.items():
            if size % self.encoder.patch:
                raise ValueError(
                    f"{key} must be a multiple of {self.encoder.patch}, the patch of a vit with encoder.stem "
                    f"{self.encoder.stem}, not {size}"
                )
        if self.loss.pair and self.crops.views != 2:
            raise ValueError(
                f"crops.views must be 2 with loss.name {self.loss.component_name()}, not {self.crops.views}"
            )
        attack = self.evaluation.attack
        if attack.needs_float32 and self.pretraining.precision == "float64":
            raise ValueError(
                f"pretraining.precision must not be float64 with evaluation.attack.name {attack.component_name()}, "
                "which computes in float32"
            )
        self.perturbation.check(self)
        self._check_stages()
        return self

    def _check_stages(self) -> None:
        if self.stages and (before := sum(stage.epochs for stage in self.stages)) >= self.pretraining.epochs:
            raise ValueError(
                f"stages: {before} epochs come before the last stage, so pretraining.epochs must exceed {before}, not "
                f"be {self.pretraining.epochs}"
            )
        for place, stage in enumerate(self.stages):
            try:
                self._in_stage(stage)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(part for part in map(str, first["loc"]) if part.isidentifier())
                raise ValueError(f"stages.{place}.values: {f'{key}: ' if key else ''}{message_of(first)}") from None

    def _in_stage(self, stage: Stage) -> "TrialConfig":
        return self.with_values({**stage.values, "stages": ()})

    @property
    def schedule(self) -> list[tuple[int, "TrialConfig"]]:
        """Number of epochs and config of each stage, the last one included.

        These configs have no stages, and differ from one to the next.
        """
        if not self.stages:
            return [(self.pretraining.epochs, self)]
        rest = self.pretraining.epochs - sum(stage.epochs for stage in self.stages)
        each = [(stage.epochs, self._in_stage(stage)) for stage in self.stages]
        merged: list[tuple[int, TrialConfig]] = []
        for epochs, config in [*each, (rest, self.model_copy(update={"stages": ()}))]:
            if merged and merged[-1][1] == config:
                merged[-1] = (merged[-1][0] + epochs, config)
            else:
                merged.append((epochs, config))
        return merged

    def until(self, epochs: int) -> list[tuple[int, "TrialConfig"]]:
        """The part of `schedule` that covers the first `epochs` epochs."""
        covered: list[tuple[int, TrialConfig]] = []
        for length, config in self.schedule:
            if epochs > 0:
                covered.append((min(length, epochs), config))
            epochs -= length
        return covered

    def at_epoch(self, epoch: int) -> "TrialConfig":
        """The config with which `epoch` is trained, which counts from 1; it has no stages."""
        return self.until(epoch)[-1][1]

    @property
    def judged_on(self) -> DataConfig:
        """The data set on whose images the probe is fitted and evaluated."""
        return self.evaluation.transfer or self.data

    def evaluates(self, epoch: int) -> bool:
        """Whether accuracies are measured after `epoch`, which counts from 1."""
        due = epoch % self.evaluation.every_epochs == 0 or epoch == self.pretraining.epochs
        return due and self.judged_on.validation_images > 0

    @property
    def measurements(self) -> int:
        """Number of evaluations in the whole trial."""
        return sum(map(self.evaluates, range(1, self.pretraining.epochs + 1)))

    @property
    def minibatches_per_epoch(self) -> int:
        """Number of complete minibatches; the remaining images, different ones in each epoch, are not used."""
        return self.data.pretrain_images // self.pretraining.batch_images

    @property
    def updates(self) -> int:
        """Number of weight updates of the whole trial."""
        return sum(epochs * stage.updates_per_epoch for epochs, stage in self.schedule)

    @property
    def updates_per_epoch(self) -> int:
        """Number of weight updates in an epoch of the last stage."""
        return self.minibatches_per_epoch * self.pretraining.replays

    @property
    def attack_passes_per_epoch(self) -> int:
        """Forward and backward passes of a crop that serve only the attack, in an epoch of the last stage."""
        return self._crops_per_epoch * self.perturbation.attack_passes

    @property
    def losses_per_epoch(self) -> int:
        """Losses of a minibatch, with their gradients, in an epoch of the last stage."""
        return self.minibatches_per_epoch * (self.pretraining.replays + self.perturbation.attack_passes)

    @property
    def crop_passes_per_epoch(self) -> int:
        """All passes, forward and backward, of a crop in an epoch of the last stage.

        V m N for free replay, V (k + 1) N for PGD.
        """
        return self._crops_per_epoch * self.pretraining.replays + self.attack_passes_per_epoch

    @property
    def crop_passes(self) -> int:
        """Crop passes of the whole trial."""
        return self.crop_passes_until(self.pretraining.epochs)

    def crop_passes_until(self, epochs: int) -> int:
        """Crop passes of the first epochs."""
        return sum(length * stage.crop_passes_per_epoch for length, stage in self.until(epochs))

    def crop_passes_after(self, epochs: int) -> int:
        """Crop passes of the epochs after the first ones."""
        return self.crop_passes - self.crop_passes_until(epochs)

    def check_share(self, workers: int, *, gpus: bool) -> None:
        """Refuse a share of a minibatch so small that batch norm would see a single crop, which has no variance.

        Args:
            workers: number of workers that share a minibatch.
            gpus: whether the workers compute on GPUs, where batch norm can be synchronised.

        Raises:
            ValueError: if a worker's smallest pass has one crop.
        """
        sizes = [stage.crops.views for _, stage in self.schedule]
        at_once = [self.pretraining.views_at_once or views for views in sizes]
        passes = (views % each or each for views, each in zip(sizes, at_once, strict=True))
        smallest = min(passes) * self.pretraining.batch_images // workers
        synchronised = gpus and self.encoder.synchronize_norm
        if workers > 1 and smallest < 2 and self.encoder.norm == "batch" and not synchronised:
            raise ValueError(
                f"pretraining.views_at_once {self.pretraining.views_at_once} and pretraining.batch_images "
                f"{self.pretraining.batch_images} leave one of {workers} workers a single crop at a time, which has no "
                "variance for batch norm: raise one of them, or set encoder.norm to group"
            )

    @property
    def _crops_per_epoch(self) -> int:
        return self.minibatches_per_epoch * self.pretraining.batch_images * self.crops.views

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that identify the config, independent of where its images lie.

        Defaults are left out, so a key that is added later does not change fingerprints as long as it has its default.
        """
        return digest_of(without_paths(self.model_dump(exclude_defaults=True)))

    def fingerprint_until(self, epochs: int) -> str:
        """Twelve hexadecimal digits that identify how the first epochs are trained and evaluated.

        Trials that agree in them have the same state after these epochs. Of a trial with one stage it is its
        `fingerprint`.
        """
        parts = [(length, stage.fingerprint) for length, stage in self.until(max(epochs, 1))]
        return parts[0][1] if len(parts) == 1 else digest_of(parts)

    def value_of(self, key: str) -> Any:
        """The value of a dotted key, such as ``crops.views``, or of a derived quantity, such as ``crop_passes``.

        None for a key of a component that this trial does not use, such as ``loss.temperature`` of another loss.

        Raises:
            ValueError: if there is no such key.
        """
        value: Any = self
        for name in key.split("."):
            if name.startswith("_") or not isinstance(value, Strict) or not _has(type(value), name):
                if isinstance(value, Component) and key in trial_keys():
                    return None
                raise ValueError(f"names {key}, which no trial has")
            value = getattr(value, name)
        return value.component_name() if isinstance(value, Component) else value

    def with_values(self, values: dict[str, Any]) -> "TrialConfig":
        """A copy of this config with the values of some dotted keys replaced; it is validated.

        Raises:
            pydantic.ValidationError: if a key is unknown or a value is out of bounds.
        """
        branches = (branch(key, value) for key, value in values.items())
        return TrialConfig.model_validate(lay_trials(self.model_dump(exclude_unset=True), *branches))


def _has(model: type[Strict], name: str) -> bool:
    """Whether a config has a key, or a derived quantity that a class of this package defines."""
    ours = (vars(each).get(name) for each in model.__mro__ if issubclass(each, Strict))
    return name in model.model_fields or any(isinstance(each, property) for each in ours)


def lay_trials(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Merge trees of a trial's keys; each overrides the ones before it."""
    return reduce(partial(lay, TrialConfig), trees)  # type: ignore[arg-type]


def without_paths(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped trial without the paths of its images, which are not part of its identity."""

    def unplaced(data: Any) -> Any:
        return {key: value for key, value in data.items() if key != "path"} if isinstance(data, Mapping) else data

    tree = {key: unplaced(value) if key == "data" else value for key, value in trial.items()}
    if isinstance(tree.get("evaluation"), Mapping) and "transfer" in tree["evaluation"]:
        tree["evaluation"] = {**tree["evaluation"], "transfer": unplaced(tree["evaluation"]["transfer"])}
    return tree


def trial_keys() -> list[str]:
    """All dotted keys of a trial, such as ``crops.views``."""
    return keys_of(TrialConfig)
