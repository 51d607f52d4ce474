"""How a model sees a coalition; one masking per file."""

from fastshap_lab.models.maskings.attention import AttentionMask
from fastshap_lab.models.maskings.base import Masking
from fastshap_lab.models.maskings.blur import Blur
from fastshap_lab.models.maskings.mask_channel import MaskChannel
from fastshap_lab.models.maskings.mask_token import MaskToken
from fastshap_lab.models.maskings.mean import Mean
from fastshap_lab.models.maskings.token_drop import TokenDrop
from fastshap_lab.models.maskings.zero import Zero

__all__ = ["MASKINGS", "AttentionMask", "Blur", "MaskChannel", "MaskToken", "Masking", "Mean", "TokenDrop", "Zero"]

MASKINGS: dict[str, type[Masking]] = {
    "mask_channel": MaskChannel,
    "zero": Zero,
    "mean": Mean,
    "blur": Blur,
    "attention": AttentionMask,
    "token_drop": TokenDrop,
    "mask_token": MaskToken,
}
