"""Costs of trials: their counted work, and their time and memory by the model of a scaling study."""

from pathlib import Path

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.model import CostModel, Work
from cfamc_ray.scaling.system import read_costs


def trial_work(trial: TrialConfig) -> Work:
    """The work of a trial: its training and its evaluation.

    PyTorch, which counts it, is imported only by the first call, because importing it is slow.
    """
    from cfamc_ray.cost import work as cost  # noqa: PLC0415

    return cost.training_work(trial)


def cost_model(scaling_study: Path | str | None, study: StudyConfig) -> CostModel | None:
    """The cost model that a scaling study has fitted; None without a scaling study.

    Args:
        scaling_study: folder of the scaling study.
        study: study whose costs it predicts.

    Raises:
        InputError: if the folder holds no model for such trials.
    """
    return None if scaling_study is None else read_costs(Path(scaling_study), study, trial_work)
