"""One prepared command for a machine with a GPU: `prepare` here, `run` there, `read` here (README.md beside)."""
