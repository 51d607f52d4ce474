"""How a model sees a coalition; one masking per file."""

from fastshap_lab.models.maskings.attention import AttentionMask
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.models.maskings.mask_channel import MaskChannel

__all__ = ["MASKINGS", "AttentionMask", "MaskChannel", "Masking"]

MASKINGS: dict[str, type[Masking]] = {"mask_channel": MaskChannel, "attention": AttentionMask}
