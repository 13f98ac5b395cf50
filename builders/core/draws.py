"""Random seeds from names: every draw of a run comes from a hash of what it is for, never from global state."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and on nothing else.

    >>> derive_seed(0, 1, "a") == derive_seed(0, 1, "a") != derive_seed(0, 1, "b")
    True
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def query_id(text: str) -> str:
    """Identity of a query: the first 16 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
