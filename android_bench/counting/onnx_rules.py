"""Multiply-adds of ONNX operators, by the shapes of their tensors.

Counted are products of matrices and convolutions, as the field does it. Elementwise operators, pools, normalisations,
interpolation and the additions of a bias count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from bpnas.android_bench.counting.work import Shape, UnknownWorkError, known, size


class OnnxNode:
    """An operator with the shapes around it.

    Args:
        proto: the NodeProto.
        inputs, outputs: a shape each; None where it is unknown, or an optional one left out.
    """

    def __init__(self, proto: Any, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> None:
        self.op: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs, self.outputs = inputs, outputs
        self._proto = proto

    @property
    def name(self) -> str:
        """Of the operator's kind, with its domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    def has_input(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self._proto.input) and self._proto.input[index] != ""

    def x(self, index: int = 0) -> Shape:
        """Shape of an input; raises UnknownWorkError."""
        return known(self.inputs[index] if index < len(self.inputs) else None, f"an input of {self.name}")

    def y(self) -> Shape:
        """Shape of the first output; raises UnknownWorkError."""
        return known(self.outputs[0] if self.outputs else None, f"the output of {self.name}")

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute."""
        from onnx.helper import get_attribute_value

        for attribute in self._proto.attribute:
            if attribute.name == name:
                return get_attribute_value(attribute)
        return default


def multiply_adds(node: OnnxNode) -> int:
    """Of one operator that holds no other graph.

    Raises:
        UnknownWorkError: it has a shape that is unknown, or is no operator whose work is known.
    """
    rules = _RULES.get(node.domain)
    if rules is not None and node.op in rules:
        return rules[node.op](node)
    if node.domain == "com.microsoft":
        if node.op in _FREE_CONTRIBUTED:
            return 0
    elif node.domain in ("", "ai.onnx.ml") and node.op not in _UNTOLD and _is_standard(node.op, node.domain):
        return 0
    raise UnknownWorkError(f"the multiply-adds of operator {node.name} are unknown")


@cache
def _is_standard(op: str, domain: str) -> bool:
    from onnx import defs

    return bool(defs.has(op, domain=domain))


# What they take is up to the runtime (transforms, determinants), or follows from the data (trees, sequences).
_UNTOLD = {
    *("DFT", "STFT", "Det", "LinearAttention", "SequenceMap"),
    *("SVMClassifier", "SVMRegressor", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"),
}

_FREE_CONTRIBUTED = {
    *("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "BiasSoftmax", "BiasDropout", "BiasSplitGelu", "RotaryEmbedding"),
    *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", "GroupNorm"),
    *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"),
    *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearWhere", "NhwcMaxPool"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ExpandDims", "GatherND", "Pad", "Range"),
    *("Trilu", "Unique", "CropAndResize", "MaxpoolWithMask", "ReduceSumInteger"),
}


def _conv(weight: int = 1) -> Callable[[OnnxNode], int]:
    """Every output pixel takes every weight once."""

    def count(node: OnnxNode) -> int:
        y = node.y()
        spatial = y[1:-1] if node.attribute("channels_last", 0) else y[2:]
        return y[0] * size(spatial) * size(node.x(weight))

    return count


def _conv_channels_last(node: OnnxNode) -> int:
    y = node.y()
    return y[0] * size(y[1:-1]) * size(node.x(1))


def _conv_transpose(node: OnnxNode) -> int:
    """Every input pixel takes every weight once."""
    x = node.x()
    return x[0] * size(x[2:]) * size(node.x(1))


def _gemm(node: OnnxNode) -> int:
    return size(node.y()) * node.x()[0 if node.attribute("transA", 0) else 1]


def _mat_mul(node: OnnxNode) -> int:
    return size(node.y()) * node.x()[-1]


def _fused_mat_mul(node: OnnxNode) -> int:
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        raise UnknownWorkError(f"the multiply-adds of operator {node.name} with transposed batches are unknown")
    return size(node.y()) * node.x()[-2 if node.attribute("transA", 0) else -1]


def _mat_mul_packed(node: OnnxNode) -> int:
    return size(node.y()) * int(node.attribute("K", 0))


def _recurrent(node: OnnxNode) -> int:
    """At every step all weights of both directions; shorter sequences in the batch count as full ones."""
    x = node.x()
    return x[0] * x[1] * (size(node.x(1)) + size(node.x(2)))


def _causal_conv(node: OnnxNode) -> int:
    return size(node.x()) * node.x(1)[-1]


def _affine_grid(node: OnnxNode) -> int:
    y = node.y()
    return y[0] * size(y[1:-1]) * size(node.x()[1:])


def _linear_model(node: OnnxNode) -> int:
    x = node.x()
    rows = x[0] if len(x) > 1 else 1
    return rows * len(node.attribute("coefficients", ()))


def _attention(node: OnnxNode) -> int:
    """Of the standard operator: queries times keys, and the result times values."""
    q, k, v = node.x(0), node.x(1), node.x(2)
    keys = node.x(4)[2] if node.has_input(4) else 0  # of the past
    if len(q) == 4:
        batch, heads, queries, width = q
        keys, value_width = keys + k[2], v[3]
    else:
        batch, queries, whole = q
        heads, key_heads = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
        if heads < 1 or key_heads < 1:
            raise UnknownWorkError(f"operator {node.name} does not tell its heads")
        width, keys, value_width = whole // heads, keys + k[1], v[2] // key_heads
    return int(batch * heads * queries * keys * (width + value_width))


def _projected_attention(node: OnnxNode) -> int:
    """Of the contributed operator, which makes queries, keys and values itself."""
    if node.has_input(4 if node.op == "Attention" else 8):
        raise UnknownWorkError(f"the multiply-adds of operator {node.name} with a past are unknown")
    batch, length, _ = node.x()
    weight = node.x(1)
    sizes = node.attribute("qkv_hidden_sizes", ())
    keys, values = (sizes[1], sizes[2]) if sizes else (weight[1] // 3, weight[1] // 3)
    return int(batch * length * (size(weight) + length * (keys + values)))


def _multi_head_attention(node: OnnxNode) -> int:
    q, k, v = node.x(0), node.x(1), node.x(2)
    if len(q) != 3 or len(k) != 3 or len(v) != 3 or node.has_input(6):
        raise UnknownWorkError(f"the multiply-adds of operator {node.name} with packed or past values are unknown")
    return q[0] * q[1] * k[1] * (q[2] + v[2])


def _einsum(node: OnnxNode) -> int:
    """Operands are contracted from left to right, as ONNX Runtime does; one alone has nothing to be multiplied with."""
    equation = node.attribute("equation", b"").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    sizes: dict[str, int] = {}
    labels = []
    for index, term in enumerate(terms):
        shape = node.x(index)
        names = _labels(term, len(shape))
        for name, length in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), length)
        labels.append(set(names))
    kept = {name for name in sizes if name in right or name.startswith("...")} if arrow else _once(labels, terms)
    total, so_far = 0, labels[0]
    for index, operand in enumerate(labels[1:], 1):
        total += size([sizes[name] for name in so_far | operand])
        needed = kept.union(*labels[index + 1 :])
        so_far = (so_far | operand) & needed
    return total


def _labels(term: str, rank: int) -> list[str]:
    """One for each dimension; those of an ellipsis are numbered from the last."""
    if "..." not in term:
        names = list(term)
    else:
        before, _, after = term.partition("...")
        covered = rank - len(before) - len(after)
        names = [*before, *(f"...{covered - i}" for i in range(covered)), *after]
    if len(names) != rank:
        raise UnknownWorkError("an Einsum's equation does not fit its inputs")
    return names


def _once(labels: Sequence[set[str]], terms: Sequence[str]) -> set[str]:
    """What the output keeps where the equation does not say."""
    text = "".join(terms)
    return {name for group in labels for name in group if name.startswith("...") or text.count(name) == 1}


_RULES: dict[str, dict[str, Callable[[OnnxNode], int]]] = {
    "": {
        "Conv": _conv(),
        "ConvInteger": _conv(),
        "QLinearConv": _conv(3),
        "DeformConv": _conv(),
        "ConvTranspose": _conv_transpose,
        "CausalConvWithState": _causal_conv,
        "Gemm": _gemm,
        "MatMul": _mat_mul,
        "MatMulInteger": _mat_mul,
        "QLinearMatMul": _mat_mul,
        "Einsum": _einsum,
        "LSTM": _recurrent,
        "GRU": _recurrent,
        "RNN": _recurrent,
        "Attention": _attention,
        "AffineGrid": _affine_grid,
    },
    "ai.onnx.ml": {"LinearClassifier": _linear_model, "LinearRegressor": _linear_model},
    "com.microsoft": {
        "FusedConv": _conv(),
        "QLinearConv": _conv(3),
        "NhwcFusedConv": _conv_channels_last,
        "FusedGemm": _gemm,
        "QGemm": _gemm,
        "FusedMatMul": _fused_mat_mul,
        "TransposeMatMul": _fused_mat_mul,
        "DynamicQuantizeMatMul": _mat_mul,
        "MatMulIntegerToFloat": _mat_mul,
        "MatMulInteger16": _mat_mul,
        "MatMulNBits": _mat_mul_packed,
        "MatMulBnb4": _mat_mul_packed,
        "DynamicQuantizeLSTM": _recurrent,
        "Attention": _projected_attention,
        "QAttention": _projected_attention,
        "MultiHeadAttention": _multi_head_attention,
    },
}
