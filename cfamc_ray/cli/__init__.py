"""The console script `cfamc`, the verbs that read study folders, and what all commands share."""
