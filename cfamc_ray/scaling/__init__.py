"""How work and learning grow."""
