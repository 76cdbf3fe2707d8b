"""Scripts for a checkout: ``python -m analysis.VERB`` does what ``cfamc VERB`` does."""
