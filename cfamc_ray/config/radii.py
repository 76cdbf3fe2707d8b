"""Radii and their norms: which one a study's radii have, and how large those of l2 should be."""

from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.perturbation import BallConfig
from cfamc_ray.config.ranges import Constant
from cfamc_ray.config.stages import TRUNK
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.types import Norm

NORMS = {"perturbation.epsilon": "perturbation.norm", "evaluation.epsilon": "evaluation.norm"}
"""Keys of a trial's radii, and of their norms."""


def norms_of(config: StudyConfig) -> dict[str, Norm | None]:
    """Norms of a study's radii by their keys, those of trunks included, without those in l∞.

    Returns:
        The norms; None for a radius whose norm is searched, so that only a trial's point tells it.
    """
    norms: dict[str, Norm | None] = {}
    for key, beside in NORMS.items():
        written = config.space.get(beside, Constant(constant=config.trial.value_of(beside)))
        if written.edges() == ("l2",):
            norms[key] = norms[TRUNK + key] = "l2"
        elif "l2" in written.edges():
            norms[key] = norms[TRUNK + key] = None
    return norms


def radius_in_l2(epsilon: float, trial: TrialConfig) -> float:
    """Length of uniform noise in an l∞ ball, on a crop of a trial: the radius times the side.

    On 32 pixels it is 0.5 for 4/255.

    Args:
        epsilon: radius of the l∞ ball.
        trial: trial whose crops are perturbed.
    """
    return epsilon * trial.crops.size


def check_radii(trial: TrialConfig) -> None:
    """Refuse radii in the l2 norm that are the defaults of the l∞ norm, which hardly perturb a crop.

    Raises:
        ValueError: if there are any; the message begins with their keys.
    """
    attacked = [("perturbation", stage.perturbation) for _, stage in trial.schedule]
    problems = []
    for name, section in (*attacked, ("evaluation", trial.evaluation)):
        if not isinstance(section, BallConfig | EvaluationConfig) or section.norm == "linf":
            continue
        default = type(section).model_fields["epsilon"].default
        if section.epsilon == default:
            problems.append(
                f"{name}.epsilon {default * 255:g}/255 is the default of norm linf: with {name}.norm {section.norm} "
                f"give a radius, such as {radius_in_l2(default, trial):.1g}, which is about as large"
            )
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
