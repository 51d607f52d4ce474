"""Seeds that are derived from the purpose of a draw, so that no draw depends on the number of earlier ones."""

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits, which differs for different parts.

    Args:
        parts: Seed of the run and purpose of the draw, for example a name, the epoch, the batch and the rank.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8]) >> 1
