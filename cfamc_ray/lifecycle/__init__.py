"""Begin, resume, evaluate and confirm studies and runs, for the Python API and the commands."""
