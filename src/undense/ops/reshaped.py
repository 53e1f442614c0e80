"""A dense FFN seen with another number of neurons, or with a gate where it has none."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from undense.contract import DenseFFN
from undense.errors import UndenseError
from undense.ops import neurons
from undense.ops.activation import canonical
from undense.ops.regression import ridge


def reshaped(
    dense: DenseFFN, rows: Tensor, *, hidden: int, gated: bool, activation: str, bias: bool
) -> DenseFFN:
    """`dense` with exactly `hidden` neurons of this kind: the same function where it can be.

    Fewer neurons: those of largest output energy on `rows` (rows, dim). More: random ones that the
    output ignores. A gate that is added takes the neuron, and its up branch is the constant 1,
    which needs biases (else `UndenseError`). A gate that is taken away, or another activation,
    leaves neurons of another kind: the second layer is solved again on `rows`.
    """
    if hidden < dense.hidden:
        dense = _chosen(dense, neurons.keep(dense.neurons(rows), dense.down, hidden))
    before = dense
    changed = canonical(dense.activation) != activation
    if gated and dense.gate is None:
        if not bias:
            raise UndenseError(
                "block_topk: gated=True can start from a plain dense FFN only with bias=True"
                " (the up branch starts as the constant 1)"
            )
        dense = replace(
            dense,
            gate=dense.up,
            gate_bias=dense.up_bias,
            up=torch.zeros_like(dense.up),
            up_bias=dense.up.new_ones(dense.hidden),
        )
    elif dense.gate is not None and not gated:
        dense = replace(dense, up=dense.gate, up_bias=dense.gate_bias, gate=None, gate_bias=None)
        changed = True
    dense = replace(dense, activation=activation)
    if changed:
        weight, shift = ridge(dense.neurons(rows), before(rows), intercept=bias)
        dense = replace(dense, down=weight.T.contiguous(), down_bias=shift if bias else None)
    return _widened(dense, hidden - dense.hidden)


def _chosen(dense: DenseFFN, kept: Tensor) -> DenseFFN:
    return replace(
        dense,
        up=dense.up[kept],
        up_bias=None if dense.up_bias is None else dense.up_bias[kept],
        gate=None if dense.gate is None else dense.gate[kept],
        gate_bias=None if dense.gate_bias is None else dense.gate_bias[kept],
        down=dense.down[:, kept],
    )


def _widened(dense: DenseFFN, more: int) -> DenseFFN:
    def grown(weight: Tensor | None) -> Tensor | None:
        if weight is None or more == 0:
            return weight
        drawn = torch.randn(more, weight.shape[1]) * weight.shape[1] ** -0.5
        return torch.cat([weight, drawn]) if weight.dim() == 2 else weight

    def longer(bias: Tensor | None) -> Tensor | None:
        return None if bias is None else torch.cat([bias, bias.new_zeros(more)])

    up = grown(dense.up)
    assert up is not None
    return replace(
        dense,
        up=up,
        up_bias=longer(dense.up_bias),
        gate=grown(dense.gate),
        gate_bias=longer(dense.gate_bias),
        down=torch.cat([dense.down, dense.down.new_zeros(dense.dim, more)], 1),
    )
