"""Reader of bounding boxes in the XML format of PASCAL VOC, which ImageNet uses, too."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

from fastshap_lab.data.image_files import read_file
from fastshap_lab.errors import UserError


@dataclass(frozen=True)
class Boxes:
    """Bounding boxes of the N objects in an image.

    Attributes:
        names: Class names of the objects (N).
        edges: Left, top, right and bottom edge in pixels from the image's top left corner, float64 (N, 4).
        picture: Width and height in pixels of the image that the boxes were drawn in.
    """

    names: list[str]
    edges: Tensor
    picture: tuple[float, float]


def read_boxes(path: Path, first_pixel: int) -> Boxes:
    """Return the boxes in an annotation file, whose ``xmax`` and ``ymax`` belong to the box.

    Args:
        path: Path of the XML file.
        first_pixel: Number that the file gives to the first row and column, 0 or 1.

    Raises:
        UserError: The file cannot be read, or is no annotation.
    """
    content = read_file(path)
    try:
        text = content.decode()
        # Only a document type can define entities, which may expand without end; xml.etree refuses undefined ones.
        if "<!DOCTYPE" in text:
            raise ValueError("it has a document type, which is not allowed")
        root = ElementTree.fromstring(text)
        objects = root.findall("object")
        names = [found.findtext("name", "").strip() for found in objects]
        edges = [[_number(found, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")] for found in objects]
        picture = (_number(root, "size/width"), _number(root, "size/height"))
        if min(picture) <= 0:
            raise ValueError(f"its size is {picture[0]:g}×{picture[1]:g} pixels, must be at least 1×1")
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as an annotation: {error}") from None
    corners = torch.tensor(edges, dtype=torch.float64).view(-1, 4) - first_pixel
    return Boxes(names, corners + torch.tensor([0, 0, 1, 1]), picture)


def _number(element: ElementTree.Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"<{element.tag}> has no {tag}")
    return float(text)
