"""One trial, from its config to its metrics."""
