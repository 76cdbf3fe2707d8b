"""Short names of settings: equal for equal settings."""

import hashlib
import json


def digest_of(tree: object, *, digits: int = 12) -> str:
    """The first hexadecimal digits of the SHA-256 of a tree as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:digits]
