"""What a tensor is to its model, told from name, shape and configuration: linear or not, and which way round.

Only tensors in files are looked at, never modules, so an architecture that nobody has met yet needs no code: a 2-D
`….weight` that is nothing else is a linear. What cannot be told stays dense, and the plan says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FLOATS = ("float64", "float32", "float16", "bfloat16")

# The first row whose pattern is found in a name decides; patterns see whole dotted parts.
_DENSE: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (why, re.compile(pattern))
    for why, pattern in (
        (
            "output head",
            r"(^|\.)(lm_head|output_projection|embed_out|score|classifier|qa_outputs|cls|predictions"
            r"|lm_head_linear)(\.|$)|^output\.weight$|^(model\.)?head\.weight$",
        ),
        (
            "embedding",
            r"(^|[._])(embed\w*|\w*embeddings?|wte|wpe|tok_embd|emb|relative_attention_bias)(\.|$)"
            r"|\.relative_position\w*|^(\w+\.)?shared\.weight$",
        ),
        ("norm", r"(^|[._])(\w*norm\w*|ln|ln_\w+|layer_norm\w*)(\.\w+)?$"),
        (
            "router",
            r"(^|\.)(router|gate|shared_expert_gate|wg|gate_weight|router_\w+|switch)(\.(weight|wg|classifier|layer))*$",
        ),
        ("small mixer", r"(^|\.)(A_log|dt_proj|x_proj|conv1d|time_\w+)(\.|$)"),
    )
)
_CONV1D_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
_CONV1D_NAME = re.compile(r"(^|\.)(c_attn|c_proj|c_fc|q_attn)\.weight$")
_EXPERTS = re.compile(
    r"experts\.(?P<which>gate_up_proj|gate_proj|up_proj|down_proj|w1|w2|w3)(\.weight)?$"
    r"|(^|\.)(block_sparse_moe|moe)\.(?P<mixer>input_linear|output_linear)\.weight$"
)
_EXPERTS_IN_OUT = frozenset(
    {"llama4", "llama4_text", "gpt_oss", "qwen3_vl_moe", "qwen3_vl_moe_text", "aria", "aria_text"}
)
_EXPERTS_OUT_IN = frozenset(
    {
        "granitemoe",
        "granitemoehybrid",
        "granitemoeshared",
        "jetmoe",
        "mixtral",
        "qwen3_moe",
        "qwen2_moe",
        "deepseek_v3",
        "deepseek_v2",
        "glm4_moe",
        "dbrx",
        "olmoe",
    }
)


@dataclass(frozen=True)
class Role:
    """`linear` with its orientation, or dense; `reason` is what the plan prints."""

    linear: bool
    reason: str
    transposed: bool = False


def is_conv1d_model(tensors: Mapping[str, tuple[int, ...]], model_type: str | None) -> bool:
    """GPT-2's Conv1D keeps (in, out): known by model type, or by a `c_attn` of shape (n, 3n)."""
    if model_type is not None and model_type in _CONV1D_TYPES:
        return True
    fused = [shape for name, shape in tensors.items() if re.search(r"(^|\.)attn\.c_attn\.weight$", name)]
    return bool(fused) and all(len(shape) == 2 and shape[1] == 3 * shape[0] for shape in fused)


def role_of(name: str, dtype: str, shape: tuple[int, ...], config: Mapping[str, Any], conv1d: bool) -> Role:
    """The default for one tensor, before any rule of a recipe."""
    if dtype not in FLOATS:
        return Role(False, f"{dtype} is not a weight type")
    if len(shape) < 2:
        return Role(False, "bias, norm or other vector")
    if 0 in shape:
        return Role(False, "empty")
    for why, pattern in _DENSE:
        if pattern.search(name):
            return Role(False, why)
    if len(shape) == 2:
        if not name.endswith(".weight"):
            return Role(False, "a matrix that is not called .weight")
        if conv1d and _CONV1D_NAME.search(name):
            return Role(True, "Conv1D linear (in, out)", transposed=True)
        return Role(True, "linear (out, in)")
    if len(shape) == 3:
        return _experts(name, shape, config)
    return Role(False, f"{len(shape)}-D tensor (convolution?)")


def _experts(name: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> Role:
    """Fused experts (experts, out, in) or (experts, in, out): the hidden size tells, else the model type."""
    match = _EXPERTS.search(name)
    if not match:
        return Role(False, "unknown 3-D tensor")
    which = match["which"] or match["mixer"]
    text = config.get("text_config")
    settings: Mapping[str, Any] = text if isinstance(text, Mapping) else config
    hidden, model_type = settings.get("hidden_size"), str(config.get("model_type", ""))
    down = which in ("down_proj", "w2", "output_linear")
    # gate and up read the hidden state, down writes it
    out_in, in_out = (shape[1] == hidden, shape[2] == hidden) if down else (shape[2] == hidden, shape[1] == hidden)
    if out_in != in_out:
        return Role(True, f"fused experts, {'(out, in)' if out_in else '(in, out)'} by hidden_size", transposed=in_out)
    known = {model_type, str(settings.get("model_type", ""))}
    if known & _EXPERTS_IN_OUT:
        return Role(True, "fused experts, (in, out) by model type", transposed=True)
    if known & _EXPERTS_OUT_IN:
        return Role(True, "fused experts, (out, in) by model type")
    return Role(False, "fused experts of unknown orientation; a rule with axis can say")


# -- execution order ---------------------------------------------------------------------------------------------------

_LAYER = re.compile(r"(^|\.)(layers?|h|blocks?|block|encoder|decoder|transformer)\.(\d+)\.")
_PART_ORDER = tuple(
    re.compile(pattern)
    for pattern in (
        r"(input_layernorm|ln_1|attention_norm|norm1|self_attn_layer_norm)",
        r"(attn|attention|mixer|temporal_block)\b.*(norm)",
        r"(attn|attention|mixer|temporal_block)\b.*(qkv|c_attn|\bq|query|wq)",
        r"(attn|attention|mixer|temporal_block)\b.*(\bk|key|wk)",
        r"(attn|attention|mixer|temporal_block)\b.*(\bv|value|wv)",
        r"(attn|attention|mixer|temporal_block)\b",
        r"(post_attention_layernorm|ln_2|ffn_norm|norm2|final_layer_norm)",
        r"(router|\bgate\.)",
        r"(gate_up|gate_proj|w1|c_fc|fc1|intermediate)",
        r"(up_proj|w3)",
        r"(down_proj|w2|c_proj|fc2|output)",
    )
)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `layers.2` before `layers.10`."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def execution_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which a forward pass meets them: embeddings, layers by number, final norm, head."""
    return sorted(names, key=_execution_key)


def _execution_key(name: str) -> tuple[Any, ...]:
    layer = _LAYER.search(name)
    if layer:
        part = next((i for i, pattern in enumerate(_PART_ORDER) if pattern.search(name)), len(_PART_ORDER))
        tower = 0 if "vision" in name or "encoder" in name else 1
        return 1, tower, name[: layer.start()], int(layer[3]), part, natural_key(name)
    for why, pattern in _DENSE[:2]:
        if pattern.search(name):
            return (0 if why == "embedding" else 3), 0, "", 0, 0, natural_key(name)
    return 2, 0, "", 0, 0, natural_key(name)
