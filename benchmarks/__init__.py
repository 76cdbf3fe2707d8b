"""One script per claim of speed or accuracy, each with a baseline in the same run; results/ beside."""
