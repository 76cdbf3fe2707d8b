"""Measures: numbers about an encoder that a search records besides accuracies; each is a metric of its name."""

from typing import Annotated, ClassVar, Literal

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


AnyMeasure = Annotated[MeasureConfig, ComponentField(MEASURES, EffectiveRankConfig)]
