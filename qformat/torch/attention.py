"""Attention of one new token on the CPU, where torch's own kernel for half floats is slow.

For one query torch computes bfloat16 and float16 attention a key at a time: 32 heads on 8 of keys, 64 wide, take 3.5 ms
for 1024 keys on one core of Zen 4. As one product of float32 for all heads that share keys they take 0.32 ms, and are
nearer to the exact result (`benchmarks/attention.py`). Everything else is transformers' `sdpa`, masks included.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "qformat"

_HALVES = (torch.bfloat16, torch.float16)

# What else changes the result of transformers' function, or what it says, if it is given.
_EXTRAS = ("position_bias", "cache", "softcap", "output_attentions")


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers' attention functions take and give.

    Args:
        query: (batch, heads, new tokens, width).
        key, value: (batch, key heads, tokens, width), `heads` a multiple of `key heads`.
        attention_mask: None, or (batch, heads or 1, new tokens, tokens), of bool or added to the scores.

    Returns:
        (batch, new tokens, heads, width of value) in the dtype of the query.
    """
    groups, shared = key.shape[1], attention_mask is None or attention_mask.shape[1] == 1
    if (
        query.shape[2] == 1
        and query.is_cpu
        and query.dtype in _HALVES
        and shared
        and not dropout
        and all(more.get(name) is None or more[name] is False for name in _EXTRAS)
    ):
        batch, heads, _, width = query.shape
        rows = query.reshape(batch, groups, heads // groups, width)
        mask = attention_mask
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
        y = scaled_dot_product_attention(rows.float(), key.float(), value.float(), attn_mask=mask, scale=scaling)
        return y.to(query.dtype).reshape(batch, 1, heads, value.shape[-1]), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    y, weights = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
    )
    return y, weights


def install(model: PreTrainedModel) -> None:
    """Let a model that uses `sdpa` use this instead, unless its code asks for the name of its attention."""
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
    from transformers.masking_utils import sdpa_mask

    if any(_asks(type(part)) for part in model.modules() if isinstance(part, PreTrainedModel)):
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    names = {name: getattr(model.config, name, None) for name in model.config.sub_configs} | {"": model.config}
    uses = {name: NAME for name, config in names.items() if getattr(config, "_attn_implementation", None) == "sdpa"}
    if uses:
        model.set_attn_implementation(uses)


def _asks(kind: type[PreTrainedModel]) -> bool:
    """Whether the module of a model's class does more with the name of its attention than look it up and tell `eager`
    apart, or has attention of its own making: judged by its source, as transformers does."""
    if not kind._can_set_attn_implementation():
        return True
    source = inspect.getsource(sys.modules[kind.__module__])
    return re.search(r"_attn_implementation\s*(!=|in\b|not\b|==(?! \"eager\"))", source) is not None
