"""Measures: numbers about an encoder that a search records besides accuracies; each is a metric of its name."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cfamc_ray.config.components import Component, ComponentField, Registry
from cfamc_ray.metrics import Direction, Metric, Unit, register_metric


class MeasureConfig(Component):
    """A number that describes the quality of an encoder; `build()` gives a `cfamc_ray.evaluation.measures.Measure`."""

    label: ClassVar[str]
    """Label in tables and figures."""
    unit: ClassVar[Unit] = "number"
    """Unit, which decides how values are formatted."""
    direction: ClassVar[Direction] = "maximize"
    """Whether larger or smaller values are better."""

    name: str
    """Name of the measure, of its column, and of the objective if it is used as one."""


class _Measures(Registry[MeasureConfig]):
    def register(self, component: type[MeasureConfig]) -> type[MeasureConfig]:
        """Class decorator: register a measure and its metric."""
        name, label = component.component_name(), component.label
        register_metric(Metric(name, label, component.unit, role="result", direction=component.direction))
        return super().register(component)


MEASURES = _Measures("measure")


@MEASURES.register
class EffectiveRankConfig(MeasureConfig):
    """Effective rank of features (RankMe, arXiv 2210.02885): exp of the entropy of their normalised singular values.

    It needs no labels, and falls when features collapse to few dimensions.
    """

    implementation: ClassVar[str] = "cfamc_ray.evaluation.measures:EffectiveRank"
    label: ClassVar[str] = "effective rank"

    name: Literal["effective_rank"] = "effective_rank"
    features: Literal["prefeature", "backbone"] = "prefeature"
    """Features to measure: the pre-feature, which the published probe reads, or the backbone's output."""


class OfFeatures(MeasureConfig):
    """A measure of how much features change; it is computed on some of the validation images, a stratified sample."""

    direction: ClassVar[Direction] = "minimize"

    features: Literal["embedding", "prefeature", "backbone"] = "prefeature"
    """Features to measure: the embedding of unit length, which the loss reads, the pre-feature, which the published
    probe reads, or the backbone's output."""
    images: int = Field(default=500, ge=1)
    """Number of validation images; all of them if there are fewer."""


class AdversarialConfig(OfFeatures):
    """A measure of the largest change under an ascent in the ball of `evaluation.epsilon` and `evaluation.norm`."""

    steps: int = Field(default=5, ge=1)
    """Number of ascent steps."""


@MEASURES.register
class LocalLipschitzConfig(AdversarialConfig):
    """Local Lipschitz constant of features f, from `evaluation.norm` to l2, relative to their size.

    The mean over images x of the largest |f(x + d) - f(x)| / (ε |f(x)|) that an ascent inside the ball of radius ε
    finds: a lower bound. Lengths are l2 norms; pixels run from 0 to 1. The ascent starts from one random d, the same
    for all images; each step of steepest ascent has the size 2.5 ε / `steps` in the norm of the ball.
    """

    implementation: ClassVar[str] = "cfamc_ray.evaluation.measures:LargestChange.local_lipschitz"
    label: ClassVar[str] = "local Lipschitz constant"

    name: Literal["local_lipschitz"] = "local_lipschitz"


@MEASURES.register
class AdversarialDistanceConfig(AdversarialConfig):
    """Invariance to perturbations: mean cosine distance, from 0 to 2, of the features of an image and its worst copy.

    The worst copy is the one with the largest distance that the ascent of `local_lipschitz` finds; so the measure is
    a lower bound, too.
    """

    implementation: ClassVar[str] = "cfamc_ray.evaluation.measures:LargestChange.adversarial_distance"
    label: ClassVar[str] = "adversarial distance"

    name: Literal["adversarial_distance"] = "adversarial_distance"


@MEASURES.register
class CropDistanceConfig(OfFeatures):
    """Invariance to crops: mean cosine distance, from 0 to 2, of the features of two different crops of an image.

    The crops have the default scale, ratio and flips of `crops` and the size of the images; colours stay as they are.
    They are drawn once, the same for all images and trials.
    """

    implementation: ClassVar[str] = "cfamc_ray.evaluation.measures:CropDistance"
    label: ClassVar[str] = "crop distance"

    name: Literal["crop_distance"] = "crop_distance"
    views: int = Field(default=8, ge=2, le=64)
    """Number of crops of an image; all pairs are compared."""


AnyMeasure = Annotated[MeasureConfig, ComponentField(MEASURES, EffectiveRankConfig)]
