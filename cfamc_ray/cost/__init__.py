"""What a trial costs: crop passes and FLOPs are counted, seconds and memory are fitted."""
