"""Drawing, thin, from what `study` computed."""
