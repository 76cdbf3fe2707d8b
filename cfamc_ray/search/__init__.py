"""The search: which points to try next, and Optuna's storage of the trials. Independent of torch and Ray."""
