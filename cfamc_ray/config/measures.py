"""Numbers that a search measures of an encoder beside its accuracies, by name; each is a metric of that name."""

from typing import Annotated, ClassVar, Literal

from cfamc_ray.config.components import Component, ComponentField, Registry
from cfamc_ray.metrics import Direction, Metric, Unit, register_metric


class MeasureConfig(Component):
    """A number that tells how good an encoder is; `build()` gives a `cfamc_ray.evaluation.measures.Measure`."""

    label: ClassVar[str]
    """What a person reads in tables and figures."""
    unit: ClassVar[Unit] = "number"
    """How it is written."""
    direction: ClassVar[Direction] = "maximize"
    """Which values are better."""

    name: str
    """Of the measure, of its column and of the objective that it may be."""


class _Measures(Registry[MeasureConfig]):
    def register(self, component: type[MeasureConfig]) -> type[MeasureConfig]:
        """Class decorator: make a measure and its metric known."""
        name, label = component.component_name(), component.label
        register_metric(Metric(name, label, component.unit, role="result", direction=component.direction))
        return super().register(component)


MEASURES = _Measures("measure")


@MEASURES.register
class EffectiveRankConfig(MeasureConfig):
    """Effective rank of the features (RankMe, arXiv 2210.02885): e to the entropy of their normalised singular values.

    It needs no labels, and falls when features collapse to few dimensions.
    """

    implementation: ClassVar[str] = "cfamc_ray.evaluation.measures:EffectiveRank"
    label: ClassVar[str] = "effective rank"

    name: Literal["effective_rank"] = "effective_rank"
    features: Literal["prefeature", "backbone"] = "prefeature"
    """Whose rank: the pre-feature's, which the probe reads as published, or the backbone's output."""


AnyMeasure = Annotated[MeasureConfig, ComponentField(MEASURES, EffectiveRankConfig)]
