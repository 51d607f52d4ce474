"""A cache on disk for results that take long; a key contains everything that determines the result."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastshap_lab.files import read_tensors, sha256, write_tensors

Make = Callable[[], Mapping[str, Tensor]]


def stored(path: Path, identity: str, make: Make) -> dict[str, Tensor]:
    """Return the tensors of a file; if it is missing, damaged or of another identity, make and write them.

    Args:
        path: Path of the safetensors file.
        identity: Text that identifies the tensors and is stored with them.
        make: Function that returns the tensors.
    """
    found = read_tensors(path, identity)
    if found is None:
        found = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
        write_tensors(path, found, identity)
    return found


class Store:
    """A cache of tensors, in files below a folder.

    A key contains everything that can change the tensors: digests of weights and images, and a component's name,
    arguments and version. So an entry is never out of date. Files are written whole or not at all, and a damaged entry
    is made again. Two processes may make the same entry at the same time, which costs time and does no harm.

    Args:
        folder: Folder of the entries, which are ``<kind>/<digest>.safetensors``.

    Attributes:
        used: Names ``<kind>/<digest>`` of the entries that were requested.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.used = folder, set[str]()

    def get(self, kind: str, key: Mapping[str, Any], make: Make) -> dict[str, Tensor]:
        """Return an entry, which is made if it is missing.

        Args:
            kind: Kind of result, which is the name of its folder.
            key: Everything that determines the tensors, as values that JSON can represent.
            make: Function that returns the tensors.
        """
        digest = key_digest(kind, key)
        name = f"{kind}/{digest[:32]}"
        self.used.add(name)
        return stored(self.folder / f"{name}.safetensors", digest, make)


def key_digest(kind: str, key: Mapping[str, Any]) -> str:
    """Return the SHA-256 of kind and key of an entry.

    Args:
        kind: Kind of result.
        key: Everything that determines the tensors, as values that JSON can represent.
    """
    return sha256(json.dumps({"kind": kind, "key": key}, sort_keys=True))


def content_digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of the types, shapes and values of tensors."""
    parts: list[str | bytes] = []
    for tensor in tensors:
        parts += [f"{tensor.dtype}{tuple(tensor.shape)}", tensor.cpu().contiguous().numpy().tobytes()]
    return sha256(*parts)
