"""Scaling studies: how time, memory and error depend on size and budget."""
