"""Groups: one number for all items that mean the same."""

import hashlib


def stable_group(text: str) -> int:
    """Hash a text to an integer from 0 to 2**63 - 1; equal texts give the same number on every machine and in every run."""
    # Python's own hash() is salted per process. The shift keeps the result inside a signed 64-bit integer.
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
