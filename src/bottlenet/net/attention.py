"""Attention spelled out while a network is exported.

The exporter knows `scaled_dot_product_attention` for four dimensions alone, and with a mask takes its result to lie in
memory in another order than it does. Its products and its softmax it knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class AttentionSpelledOut(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is products and a softmax, where it is neither causal nor random."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        plain = kwargs.keys() <= {"query", "key", "value", "attn_mask", "scale", "dropout_p", "is_causal"}
        if func is not F.scaled_dot_product_attention or not plain or len(args) > 4:
            return func(*args, **kwargs)
        if kwargs.get("is_causal") or kwargs.get("dropout_p"):
            return func(*args, **kwargs)
        return attention(*args, **{name: kwargs[name] for name in kwargs if name not in ("is_causal", "dropout_p")})


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """(..., L, E), (..., S, E), (..., S, V) -> (..., L, V); the mask is added to the products, or says which count."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    products = (query * scale) @ key.transpose(-2, -1)  # (..., L, S)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        products = products.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        products = products + attn_mask
    return products.softmax(-1) @ value
