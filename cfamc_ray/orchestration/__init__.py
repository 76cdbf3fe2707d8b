"""The only folder that imports Ray: trials as trainables, the search as a Tune searcher, the run of a study.

Ray reads these settings when it is first imported.
"""

import logging
import os
import tempfile
from pathlib import Path

SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # otherwise every worker under `uv run` gets its own virtual environment
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # the default of 2 s adds up over the trials of a study
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own rows and events, into their own folders
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)


def _has_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:  # the user has neither HOME nor an entry in the system's list of users
        return False


if not _has_home():  # Ray stores a token there and does not start without it
    os.environ["HOME"] = tempfile.mkdtemp(prefix="cfamc_ray-home-")

logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # it asks every notebook to install ipywidgets
