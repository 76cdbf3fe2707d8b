"""The cost of a trial: crop passes and FLOPs are counted, seconds and memory are fitted."""
