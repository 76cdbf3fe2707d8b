"""The page that a study ends with."""
