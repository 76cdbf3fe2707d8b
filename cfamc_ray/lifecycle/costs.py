"""What trials cost: their work, counted, and their time and memory as a scaling study measured them."""

from pathlib import Path

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import CostModel, Work
from cfamc_ray.scaling.system import read_costs


def trial_work(trial: TrialConfig) -> Work:
    """The work of a trial: its training and its evaluation.

    PyTorch, which counts it, is imported by the first call only, since it is slow to import.
    """
    from cfamc_ray.cost import work as cost  # noqa: PLC0415

    return cost.training_work(trial)


def cost_model(scaling_study: Path | str | None, study: StudyConfig) -> CostModel | None:
    """The models of time and memory that a scaling study has fitted; None without one.

    Args:
        scaling_study: folder of the scaling study.
        study: whose trials they are to describe.

    Raises:
        InputError: where the folder holds no model for such trials.
    """
    return None if scaling_study is None else read_costs(Path(scaling_study), study, trial_work)
