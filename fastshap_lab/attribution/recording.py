"""Record a network's intermediate results: attention of vision transformers, inputs and outputs of any module."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, no_type_check

import torch
from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastshap_lab.attribution.base import changed, hooked
from fastshap_lab.errors import UserError
from fastshap_lab.models.tokens import TokenNetwork, is_token_network, token_grid

SelfAttention = Attention | AttentionRope | EvaAttention


def find_token_network(model: nn.Module) -> TokenNetwork | None:
    """Return the vision transformer that a model is or contains, or None if it contains none or several.

    Example:
        >>> from timm.models import VisionTransformer
        >>> vit = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> find_token_network(nn.Sequential(nn.Identity(), vit)) is vit, find_token_network(nn.Identity())
        (True, None)
    """
    found = _token_networks(model)
    return found[0] if len(found) == 1 else None


def attention_modules(network: TokenNetwork) -> list[SelfAttention]:
    """Return the attention module of each block, first block first."""
    return [cast(SelfAttention, block.attn) for block in network.blocks]


def unrecordable(model: nn.Module) -> str | None:
    """Return why a model's attention cannot be recorded, or None if it can."""
    if len(_token_networks(model)) > 1:
        return "the model holds several vision transformers"
    network = find_token_network(model)
    if network is None:
        name = type(getattr(model, "network", model)).__name__
        return f"{name} has no attention between all of its tokens, unlike timm's VisionTransformer and Eva families"
    if not all(isinstance(getattr(block, "attn", None), SelfAttention) for block in network.blocks):
        return f"the blocks of this {type(network).__name__} do not each have one ordinary self-attention"
    return None


@dataclass
class AttentionRecord:
    """Attention of one forward pass, one entry (B, A, T, T) per block, first block first; rows are queries.

    Example:
        >>> record = AttentionRecord()
        >>> record.attention, record.grid
        ([], (0, 0))
    """

    scores: list[Tensor] = field(default_factory=list)
    """Scaled dot products of queries and keys, before the softmax."""
    attention: list[Tensor] = field(default_factory=list)
    """Attention after the softmax: each row sums to one. Gradients are taken by these tensors."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of the patch tokens, which follow the prefix tokens."""


@contextmanager
def recorded_attention(network: TokenNetwork, detach_inputs: bool = False) -> Iterator[AttentionRecord]:
    """Record the attention of each block during the one forward pass in the ``with`` block.

    The softmax itself is observed, so the record holds what the network used, whatever it did to queries and keys
    before. Fused attention, which never computes these matrices, is off inside the block. With gradients on, one can
    differentiate by each recorded attention, even if nothing before it requires a gradient.

    Args:
        network: Network that ``unrecordable`` accepts.
        detach_inputs: Whether the graph is cut where a block's normalized tokens enter its attention.

    Raises:
        UserError: A block did not compute exactly one attention matrix by ``Tensor.softmax``.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> with recorded_attention(model) as record:
        ...     logits = model(torch.rand(1, 3, 8, 8))
        >>> [tuple(attention.shape) for attention in record.attention], record.grid
        ([(1, 3, 5, 5), (1, 3, 5, 5)], (2, 2))
    """
    record = AttentionRecord()
    tap = _SoftmaxTap(record)

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tap.inside = module
        return (args[0].detach(), *args[1:]) if detach_inputs else args

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        tap.inside = None

    def see_grid(module: nn.Module, args: tuple[Any, ...]) -> None:
        size = args[0].shape[-2:]
        record.grid = network.patch_embed.dynamic_feat_size(size) if network.dynamic_img_size else token_grid(network)

    modules = attention_modules(network)
    hooks: list[Callable[[], Any]] = [partial(network.patch_embed.register_forward_pre_hook, see_grid)]
    for module in modules:
        hooks += [partial(module.register_forward_pre_hook, enter), partial(module.register_forward_hook, leave)]
    with changed([(module, "fused_attn", False) for module in modules]), hooked(hooks), tap:
        yield record
    for number, module in enumerate(modules):
        if tap.recorded[module] != modules.count(module):
            raise UserError(
                f"block {number} of this {type(network).__name__}: {tap.recorded[module]} attention matrices were "
                "recorded: must be one, by Tensor.softmax, in one forward pass"
            )


class _SoftmaxTap(TorchFunctionMode):
    """Record the input and the output of each softmax that is computed while ``inside`` an attention module."""

    def __init__(self, record: AttentionRecord) -> None:
        super().__init__()
        self.record, self.recorded = record, Counter[nn.Module]()
        self.inside: nn.Module | None = None

    @no_type_check  # It runs at every operation, and a check of its types in test runs would take longer than that.
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.inside is not None and func is torch.Tensor.softmax:
            result = _differentiable(result)
            self.record.scores.append(args[0])
            self.record.attention.append(result)
            self.recorded[self.inside] += 1
        return result


@contextmanager
def recorded_activations(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the output of each module during the one forward pass in the ``with`` block.

    The module that follows gets a copy, so that operations in place neither change the record nor break its gradient.
    With gradients on, one can differentiate by each output, even if nothing before it requires a gradient. Modules
    whose output is not a tensor are left out.

    Args:
        modules: Modules of the network that is run.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with recorded_activations([model[0]]) as outputs:
        ...     answer = model(torch.rand(1, 2))
        >>> torch.equal(outputs[model[0]].relu(), answer)
        True
    """
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):  # Larger parts of Hugging Face's transformers return other objects.
            return None
        outputs[module] = _differentiable(output)
        return outputs[module].clone()

    with hooked([partial(module.register_forward_hook, keep) for module in modules]):
        yield outputs


@contextmanager
def recorded_inputs(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the first argument of each module during the one forward pass in the ``with`` block.

    Args:
        modules: Modules of the network that is run.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 3))
        >>> with recorded_inputs([model[1]]) as inputs:
        ...     answer = model(torch.tensor([[-1.0, 2.0]]))
        >>> inputs[model[1]].tolist()
        [[0.0, 2.0]]
    """
    inputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[module] = args[0]

    with hooked([partial(module.register_forward_pre_hook, keep) for module in modules]):
        yield inputs


def _token_networks(model: nn.Module) -> list[TokenNetwork]:
    return [module for module in model.modules() if is_token_network(module)]


def _differentiable(tensor: Tensor) -> Tensor:
    if tensor.requires_grad or not torch.is_grad_enabled():
        return tensor
    return tensor.detach().requires_grad_()
