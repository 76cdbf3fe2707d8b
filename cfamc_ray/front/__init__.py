"""The front, and what can be said of it."""
