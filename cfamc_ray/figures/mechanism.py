"""The figure of what predicts robustness."""

from collections.abc import Sequence
from itertools import product

from cfamc_ray.figures.chart import Axis, Chart, Panel, Points
from cfamc_ray.formatting import format_quantity
from cfamc_ray.front.mechanism import ALL, Relation, label_of


def mechanism_chart(relations: Sequence[Relation]) -> Chart:
    """Each target over each recorded value, a colour for each study; a row of panels for each target.

    The title of a panel has the correlations with nothing and with the searched keys held fixed, over all studies.
    """
    measured, targets = (list(dict.fromkeys(one[place] for one in relations)) for place in (1, 2))
    panels = [
        _panel([one for one in relations if (one.measured, one.target) == (x, y)])
        for y, x in product(targets, measured)
    ]
    nothing = Panel(Axis(""), Axis(""), [], missing="no finished trial has recorded a value")
    return Chart("mechanism", "What predicts robustness?", panels or [nothing], columns=len(measured) or 1)


def _panel(relations: Sequence[Relation]) -> Panel:
    first, whole = relations[0], relations[-1].study
    marks = [
        Points("" if whole != ALL else one.study, [x for x, _ in one.values], [y for _, y in one.values])
        for one in relations
        if one.held == "nothing" and one.study != ALL
    ]
    said = [
        f"{words} {format_quantity('number', one.correlation)} ({_ends(one)})"
        for held, words in (("nothing", "ρ"), ("keys", "keys fixed"))
        for one in relations
        if (one.study, one.held) == (whole, held)
    ]
    return Panel(Axis(label_of(first.measured)), Axis(label_of(first.target), "fraction"), marks, title="\n".join(said))


def _ends(one: Relation) -> str:
    return " to ".join(format_quantity("number", end) for end in one.interval)
