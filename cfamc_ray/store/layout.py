"""Where everything lies in the folder of a study and of a scaling study. The only place with these names.

STUDY/study.yaml                       the space as resolved
STUDY/environment.json                 versions, hardware
STUDY/images.json                      digests of the images, and where they lay
STUDY/driver.lock                      held by the command that works on the study
STUDY/optuna.db                        the sampler's storage
STUDY/ray.log                          what Ray had to say
STUDY/loggers.json                     id of the study in other tools (`loggers`)
STUDY/mlflow.db, wandb/                its trials for MLflow; for Weights & Biases, when offline
STUDY/trials.csv, front.csv, report/   derived; written anew from the trials
STUDY/trial_00007/trial.json           number and sampled point
STUDY/trial_00007/epochs.jsonl         one row of metrics per epoch
STUDY/trial_00007/outcome.json         status and reason, if it ended other than finished
STUDY/trial_00007/traceback.txt        of the exception that ended it, if one did
STUDY/trial_00007/events.out.tfevents  TensorBoard
STUDY/trial_00007/checkpoint.pt        of a running or interrupted trial
STUDY/trial_00007/trunk_0f3b…_2.pt      checkpoint after 2 epochs, with which other trials may begin
STUDY/trial_00007/encoder.safetensors  of a finished one
STUDY/trial_00007/heads.safetensors    its linear probes, one per operating point
STUDY/trial_00007/test.json            what it reached on the test split, where it confirms another trial
STUDY/interpolation_00003_00007_0.5/   an encoder between two trials, as interpolation.json tells, and its probes
STUDY/prior/proxy/                     the cheaper study that ran first (`search.proxy`)
STUDY/prior/1_NAME/                    records of an earlier study, copied (`search.prior`)
STUDY/prior.csv                        how well they ranked the study's trials; derived
STUDY/confirm/                         a study of the front's points with fresh seeds
STUDY/confirm.csv, attainment.csv      what it says of the front; derived

RUN/scaling.yaml                       a scaling study's space as resolved
RUN/system/cell_0f3b….json             raw measurements of a cell, with where and when
RUN/learning/                          a study of the designed trials
RUN/system.csv, learning.csv           derived
RUN/fits.json                          derived
"""

STUDY, ENVIRONMENT, IMAGES, LOCK = "study.yaml", "environment.json", "images.json", "driver.lock"
STORAGE, RAY_LOG = "optuna.db", "ray.log"
LOGGERS, MLFLOW = "loggers.json", "mlflow.db"
TRIALS, FRONT = "trials.csv", "front.csv"
REPORT, PAGE = "report", "report.html"
CONFIRM, CONFIRM_TABLE, ATTAINMENT = "confirm", "confirm.csv", "attainment.csv"
PRIOR, PRIOR_TABLE = "prior", "prior.csv"
TRIAL, EPOCHS, OUTCOME, TEST = "trial.json", "epochs.jsonl", "outcome.json", "test.json"
CHECKPOINT, TRACEBACK = "checkpoint.pt", "traceback.txt"
TRUNKS = "trunk_*.pt"
"""Pattern of the files of trunks."""
ENCODER, HEADS = "encoder.safetensors", "heads.safetensors"
INTERPOLATION = "interpolation.json"
INTERPOLATIONS = "interpolation_*"
"""Pattern of the folders of interpolations."""
SCALING, SYSTEM, LEARNING, FITS = "scaling.yaml", "system", "learning", "fits.json"
SYSTEM_TABLE, LEARNING_TABLE = "system.csv", "learning.csv"
CELLS = "cell_*.json"
"""Pattern of the files of cells."""


def trunk_name(fingerprint: str, epochs: int) -> str:
    """The name of a trunk's file.

    Args:
        fingerprint: identifies how its epochs were trained and evaluated (`TrialConfig.fingerprint_until`).
        epochs: number of these epochs.
    """
    return f"trunk_{fingerprint}_{epochs}.pt"


def interpolation_name(first: int, second: int, share: float) -> str:
    """The name of an interpolation's folder.

    Args:
        first: number of a trial.
        second: number of another trial.
        share: of the second trial's weights.
    """
    return f"interpolation_{first:05d}_{second:05d}_{share:g}"


def trial_name(number: int) -> str:
    """The id of a trial, which is its folder's name too: ``trial_00007``."""
    return f"trial_{number:05d}"


def number_of(trial_id: str) -> int:
    """The number of a trial, from its id."""
    return int(trial_id.removeprefix("trial_"))
