"""One FFN component a file, the dense yardsticks included. A new one needs one line here."""

from undense.ffn.block_topk import BlockTopK
from undense.ffn.dense import Dense
from undense.ffn.gated_dense import GatedDense
from undense.ffn.low_rank import LowRank
from undense.ffn.micro_feedback import MicroFeedback
from undense.ffn.micro_refine import SparseMicroRefine
from undense.ffn.none import NoFFN
from undense.ffn.polynomial import SparsePolynomial
from undense.ffn.polynomial_learned import LearnedPolynomial
from undense.ffn.polynomial_topk import TokenPolynomial
from undense.ffn.projection import Projection
from undense.ffn.random_projection import RandomProjection
from undense.ffn.spectral import SparseSpectral
from undense.ffn.spectral_learned import LearnedSpectral
from undense.ffn.spectral_topk import TokenSpectral
from undense.ffn.tensor_factor import TensorFactor
from undense.ffn.token_feedback import TokenFeedback
from undense.ffn.ultra import UltraEfficientSparseFFN

__all__ = [
    "BlockTopK",
    "Dense",
    "GatedDense",
    "LearnedPolynomial",
    "LearnedSpectral",
    "LowRank",
    "MicroFeedback",
    "NoFFN",
    "Projection",
    "RandomProjection",
    "SparseMicroRefine",
    "SparsePolynomial",
    "SparseSpectral",
    "TensorFactor",
    "TokenFeedback",
    "TokenPolynomial",
    "TokenSpectral",
    "UltraEfficientSparseFFN",
]
