"""What a finished or running study says: records, front, hypervolume. Neither torch nor Ray."""
