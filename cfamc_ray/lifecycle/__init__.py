"""The life of a study and of a run, from Python or from a command."""
