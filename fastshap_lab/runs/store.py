"""Results that took long, kept by what made them: whoever asks for the same gets it from disk."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastshap_lab.files import read_tensors, sha256, write_tensors

Make = Callable[[], Mapping[str, Tensor]]


def stored(path: Path, identity: str, make: Make) -> dict[str, Tensor]:
    """Return the tensors of a file; made, and written there, where it is missing, changed or another's.

    Args:
        path: The safetensors file.
        identity: What the tensors are of: a file that says something else is not read.
        make: Returns the tensors.
    """
    found = read_tensors(path, identity)
    if found is None:
        found = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
        write_tensors(path, found, identity)
    return found


class Store:
    """Tensors by the content of what made them, in files below a folder.

    A key says all that can change the tensors: digests of weights and images, a component's name, arguments and
    version. So an entry never goes stale: what changes has another key. Entries appear whole or not at all, and a
    damaged one is made again; two processes that make the same one at once do so twice, and no harm comes of it.

    Args:
        folder: Where the entries lie, ``<kind>/<digest>.safetensors`` each.

    Attributes:
        used: Names of the entries that were asked for, ``<kind>/<digest>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.used = folder, set[str]()

    def get(self, kind: str, key: Mapping[str, Any], make: Make) -> dict[str, Tensor]:
        """Return an entry, made where it is not there.

        Args:
            kind: What sort of result it is, a folder's name.
            key: What made it, as JSON can hold it.
            make: Returns the tensors.
        """
        digest = key_digest(kind, key)
        name = f"{kind}/{digest[:32]}"
        self.used.add(name)
        return stored(self.folder / f"{name}.safetensors", digest, make)


def key_digest(kind: str, key: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a key.

    Args:
        kind: Kind of entry, the folder that it is stored in.
        key: What the entry depends on, as plain values.
    """
    return sha256(json.dumps({"kind": kind, "key": key}, sort_keys=True))


def content_digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of tensors' types, shapes and values."""
    parts: list[str | bytes] = []
    for tensor in tensors:
        parts += [f"{tensor.dtype}{tuple(tensor.shape)}", tensor.cpu().contiguous().numpy().tobytes()]
    return sha256(*parts)
