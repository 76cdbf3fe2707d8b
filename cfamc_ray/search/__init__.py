"""What to try next, and how Optuna's storage is kept in line with the trials. Neither torch nor Ray."""
