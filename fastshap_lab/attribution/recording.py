"""What a network computes on the way to its answer: attention of vision transformers, activations of any module."""

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
from fastshap_lab.models.tokens import TokenNetwork, is_token_network, token_grid

SelfAttention = Attention | AttentionRope | EvaAttention


def find_token_network(model: nn.Module) -> TokenNetwork | None:
    """Return the vision transformer that a model is or holds, or None where it holds none or several."""
    found = _token_networks(model)
    return found[0] if len(found) == 1 else None


def attention_modules(network: TokenNetwork) -> list[SelfAttention]:
    """Return the attention of each block."""
    return [cast(SelfAttention, block.attn) for block in network.blocks]


def unrecordable(model: nn.Module) -> str | None:
    """Return why a model's attention cannot be recorded, or None if it can."""
    if len(_token_networks(model)) > 1:
        return "the model holds several vision transformers"
    network = find_token_network(model)
    if network is None:
        name = type(getattr(model, "network", model)).__name__
        return f"{name} has no attention between all of its tokens, as timm's VisionTransformer and Eva families have"
    if not all(isinstance(getattr(block, "attn", None), SelfAttention) for block in network.blocks):
        return f"the blocks of this {type(network).__name__} have no ordinary self-attention, one per block"
    return None


@dataclass
class AttentionRecord:
    """Attention of one forward pass, block by block from the image on: each (B, A, T, T), rows are queries."""

    scores: list[Tensor] = field(default_factory=list)
    """Scaled dot products, before the softmax."""
    attention: list[Tensor] = field(default_factory=list)
    """After the softmax: rows sum to one. What gradients are taken by."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of the patch tokens, which follow the prefix tokens."""


@contextmanager
def recorded_attention(network: TokenNetwork, detach_inputs: bool = False) -> Iterator[AttentionRecord]:
    """Record the attention of each block during the one forward pass in the ``with`` block.

    The softmax itself is watched, so that what is recorded is what the network used, whatever was done to queries and
    keys before. Fused attention, which never makes these matrices, is off meanwhile. With gradients on, each recorded
    attention can be differentiated by even if nothing before it requires a gradient.

    Args:
        network: One that ``unrecordable`` accepts.
        detach_inputs: Cut the graph where a block's normalized tokens enter its attention.
    """
    record = AttentionRecord()
    tap = _SoftmaxTap(record)

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tap.inside = True
        return (args[0].detach(), *args[1:]) if detach_inputs else args

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        tap.inside = False

    def see_grid(module: nn.Module, args: tuple[Any, ...]) -> None:
        size = args[0].shape[-2:]
        record.grid = network.patch_embed.dynamic_feat_size(size) if network.dynamic_img_size else token_grid(network)

    modules = attention_modules(network)
    hooks: list[Callable[[], Any]] = [partial(network.patch_embed.register_forward_pre_hook, see_grid)]
    for module in modules:
        hooks += [partial(module.register_forward_pre_hook, enter), partial(module.register_forward_hook, leave)]
    with changed([(module, "fused_attn", False) for module in modules]), hooked(hooks), tap:
        yield record


class _SoftmaxTap(TorchFunctionMode):
    """Keep what goes into and comes out of each softmax that is taken while ``inside`` an attention module."""

    def __init__(self, record: AttentionRecord) -> None:
        super().__init__()
        self.record, self.inside = record, False

    @no_type_check  # called for every operation, which would take less time than checking it in test runs
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.inside and func is torch.Tensor.softmax:
            result = _differentiable(result)
            self.record.scores.append(args[0])
            self.record.attention.append(result)
        return result


@contextmanager
def recorded_activations(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the output of each module during the one forward pass in the ``with`` block.

    What follows a module works on a copy, so that a layer that works in place neither changes the record nor breaks
    the gradient by it. With gradients on, each output can be differentiated by, whatever came before. A module whose
    output is no tensor is not in the record.
    """
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):  # transformers wraps what its larger parts say
            return None
        outputs[module] = _differentiable(output)
        return outputs[module].clone()

    with hooked([partial(module.register_forward_hook, keep) for module in modules]):
        yield outputs


@contextmanager
def recorded_inputs(modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the first argument of each module during the one forward pass in the ``with`` block."""
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
