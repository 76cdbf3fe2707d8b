"""Real trials and evaluations on a GPU that is not there: what a CPU can tell of a GPU's first minutes."""
