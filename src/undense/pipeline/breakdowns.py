"""The proposal's two breakdowns by ours: one token at d = 4096, one FFN at d = 128."""

from __future__ import annotations

from typing import Any

from undense import cost
from undense.contract import DenseShape, abstract_cost
from undense.cost import Cost
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_config
from undense.measure.decoder import Decoder, Workload, decoder_cost
from undense.measure.decoder_configs import dense_ffn

# The proposal's table of one token at d = 4096, in millions: its own words for each row.
CLAIMED_TOKEN: dict[str, float] = {
    "Q, K, V": 50.0,
    "scores and weighted sum": 16.8,
    "output projection": 16.8,
    "attention": 83.0,
    "first linear layer": 67.1,
    "activation": 32.8,
    "second linear layer": 67.1,
    "FFN": 167.0,
    "residual and LayerNorm": 0.01,
    "total": 250.0,
}


def one_token(*, keys: int = 1, dim: int = 4096) -> list[dict[str, Any]]:
    """That table's rows by our formulas, for a token that sees `keys` positions, itself included.

    The table counts a multiply-add as one, so its column of ours is MACs; FLOPs stand beside."""
    ffn = dense_ffn(dim, 4 * dim, gated=False, activation="gelu_tanh", bias=False)
    block = Decoder(
        dim=dim,
        heads=1,
        kv_heads=1,
        head_dim=dim,
        vocab=1,
        ffns=(ffn,),
        tied=False,
        learned_positions=1,
    )
    tree = decoder_cost(block, Workload(tokens=1, past=keys - 1))
    attention = tree.part("attention")
    dense = ffn(1)
    pairs = [attention.part(name) for name in ("scores", "softmax", "weighted sum")]
    norms = Cost.total("norms", cost.layer_norm("first", 1, dim), cost.layer_norm("second", 1, dim))
    residual = Cost.total("residual and norms", tree.part("residual"), norms)
    parts: dict[str, Cost] = {
        "Q, K, V": attention.part("projections"),
        "scores and weighted sum": Cost.total("mixing", *pairs),
        "output projection": attention.part("output"),
        "attention": attention,
        "first linear layer": dense.part("up"),
        "activation": dense.part("activation"),
        "second linear layer": dense.part("down"),
        "FFN": dense,
        "residual and LayerNorm": residual,
        "total": Cost.total("block", attention, dense, residual),
    }
    return [
        {
            "step": name,
            "claimed": CLAIMED_TOKEN[name] * 1e6,
            "macs": part.macs,
            "flops": part.forward,
            "claimed_over_macs": CLAIMED_TOKEN[name] * 1e6 / part.macs if part.macs else None,
        }
        for name, part in parts.items()
    ]


# The proposal's breakdown at hidden size 128, expansion 4, in thousands.
CLAIMED_128: dict[str, float] = {
    "Linear (128 -> 512)": 65.0,
    "GELU Activation": 0.5,
    "Linear (512 -> 128)": 65.0,
    "Total Dense": 130.5,
    "SparseSpectral": 10.0,
    "SparsePolynomial": 15.0,
    "SparseMicroRefine": 2.0,
    "Residual Projection": 16.0,
    "LayerNorm (In + Out)": 1.0,
    "Total Sparse": 44.0,
}


def breakdown_128() -> list[dict[str, Any]]:
    """That breakdown by the costs of `dense` and of the preset `seed`, MACs and FLOPs."""
    shape = dense_shape(128)
    dense = abstract_cost(128, dense_config(shape))
    sparse = abstract_cost(128, resolve("seed", shape))
    norms = Cost.total("norms", sparse.part("norm in"), sparse.part("norm out"))
    parts = {
        "Linear (128 -> 512)": dense.part("up"),
        "GELU Activation": dense.part("activation"),
        "Linear (512 -> 128)": dense.part("down"),
        "Total Dense": dense,
        "SparseSpectral": sparse.part("spectral"),
        "SparsePolynomial": sparse.part("polynomial"),
        "SparseMicroRefine": sparse.part("micro"),
        "Residual Projection": sparse.part("projection"),
        "LayerNorm (In + Out)": norms,
        "Total Sparse": sparse,
    }
    return [
        {
            "part": name,
            "claimed": CLAIMED_128[name] * 1e3,
            "macs": part.macs,
            "flops": part.forward,
            "share_of_dense_macs": part.macs / dense.macs,
            "share_of_dense_flops": part.forward / dense.forward,
        }
        for name, part in parts.items()
    ]


def dense_shape(dim: int) -> DenseShape:
    """The dense FFN that the proposal compares with."""
    return DenseShape(dim=dim, hidden=4 * dim, activation="gelu_tanh")
