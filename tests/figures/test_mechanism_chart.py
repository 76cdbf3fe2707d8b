from cfamc_ray.figures.chart import Points
from cfamc_ray.figures.mechanism import mechanism_chart
from cfamc_ray.figures.static import draw
from cfamc_ray.front.mechanism import ALL, Relation

VALUES = ((1.0, 0.1), (2.0, 0.2))


def relation(study: str, measured: str, target: str, held: str = "nothing") -> Relation:
    return Relation(study, measured, target, held, VALUES, 2, 0.5, (0.25, 0.75))  # type: ignore[arg-type]


def test_a_panel_for_each_value_and_target_with_a_mark_for_each_study() -> None:
    found = [
        relation(study, measured, target)
        for study in ("one", "two", ALL)
        for measured in ("loss", "coding_rate")
        for target in ("robust_gap", "robust_accuracy")
    ]
    chart = mechanism_chart([*found, relation(ALL, "loss", "robust_gap", "keys")._replace(correlation=-0.125)])
    assert chart.columns == 2
    labels = [(panel.x.label, panel.y.label) for panel in chart.panels]
    gap, robust = "robust gap", "robust accuracy"
    assert labels == [("loss", gap), ("coding rate", gap), ("loss", robust), ("coding rate", robust)]
    assert chart.panels[0].title == "ρ 0.5 (0.25 to 0.75)\nkeys fixed -0.125 (0.25 to 0.75)"
    assert [mark.name for mark in chart.panels[0].marks if isinstance(mark, Points)] == ["one", "two"]
    assert draw(chart).axes


def test_without_relations_it_says_so() -> None:
    chart = mechanism_chart([])
    assert "no finished trial" in chart.panels[0].missing
    assert draw(chart).axes
