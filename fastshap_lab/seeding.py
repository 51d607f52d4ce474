"""Seeds that follow from what they are for, so that no draw depends on how many came before it."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits that differs wherever the parts do.

    Args:
        parts: What the draw is for: the run's seed, a purpose, the epoch, the batch, the rank.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8]) >> 1
