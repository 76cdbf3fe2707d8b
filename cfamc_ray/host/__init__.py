"""The operating system: files, processes, memory."""
