"""Random seeds derived by hashing: each draw's seed is a hash of what is drawn, never taken from global state.

So a shard can be made again alone, in any order and in any process, with the same random numbers.
"""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive a seed in [0, 2^63) from the parts that name a draw, such as (random_seed, round, query_id, j).

    The parts' order and types count: 1 and "1" give different seeds.

    >>> derive_seed(0, 1, "a") == derive_seed(0, 1, "a") != derive_seed(0, 1, "b")
    True
    """
    # A separator that occurs in no name: otherwise ("ab", "c") and ("a", "bc") would be the same text.
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    # 64 bits of the hash, shifted to 63: the seed has to fit a signed Int64 column and the engines' range.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def query_id(text: str) -> str:
    """Return a query's identity: the first 16 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
