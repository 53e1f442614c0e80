"""Where each Hugging Face family keeps its dense FFN. Supporting another one is one entry here.

An entry says which module *owns* an FFN and where it stands (`places`), how that module keeps the
weights (`Projections`, one for each class of owner), and, where the owner holds more than the FFN
(BERT's residual and LayerNorm, all of a BART layer), which of its modules the FFN is (`chain`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from undense.errors import UndenseError

PREFIX = "undense_"
Kind = Literal["causal", "encoder", "seq2seq", "vision"]


@dataclass(frozen=True, kw_only=True)
class Projections:
    """The weights of one class of dense FFN, by their paths in the module that owns it.

    `owner`: its class name. `up`, `gate`, `down`: the projections; the activation acts on the gate,
    or on `up` where there is none. `fused`: `up` holds the gate's outputs first and then its own.
    `transposed`: they are `Conv1D`, which keeps its weight as (inputs, outputs).
    """

    owner: str
    up: str
    down: str
    gate: str | None = None
    fused: bool = False
    transposed: bool = False

    @property
    def gated(self) -> bool:
        """Whether the activation of one projection multiplies another."""
        return self.fused or self.gate is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the projections."""
        return (self.up, *((self.gate,) if self.gate else ()), self.down)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family; the defaults are the layout of Llama and of those that copied it.

    `model_type`: as in `config.json`. `places`: paths of the owners in the base model, {} being the
    layer. `chain`: empty where the owner is the FFN and nothing else; otherwise the modules of the
    owner that are the FFN, run one after the other: a component takes the first one's place and the
    identity the others'. `muted`: dropout probabilities of the owner that act inside the chain, 0
    while a component stands there. `activation`: key of the config. `kind`: what it is fed.
    `optional`: parts of the base model that only some heads have, or heads beside it. `shifted`:
    positions are numbered from behind the padding token's number, so that there are fewer.
    `attention`: path of the self-attention whose place a sequence mixer can take, if one can.
    """

    model_type: str
    projections: tuple[Projections, ...]
    places: tuple[str, ...] = ("layers.{}.mlp",)
    chain: tuple[str, ...] = ()
    muted: tuple[str, ...] = ()
    activation: str = "hidden_act"
    kind: Kind = "causal"
    optional: tuple[str, ...] = ()
    shifted: bool = False
    attention: str | None = None

    @property
    def seats(self) -> tuple[str, ...]:
        """The paths in the base model where components stand, {} being the layer."""
        return tuple(f"{place}.{self.chain[0]}" if self.chain else place for place in self.places)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of every module that belongs to an FFN, * being the layer."""
        ends = [f".{part}" for part in self.chain] or [""]
        return tuple(place.replace("{}", "*") + end for place in self.places for end in ends)

    def layer(self, key: str) -> int | None:
        """The layer of an FFN by its path in the base model; None where no FFN stands."""
        return _layer(self.seats, key)

    def owner_layer(self, key: str) -> int | None:
        """The same by the path of the module that owns it."""
        return _layer(self.places, key)

    def attention_layer(self, key: str) -> int | None:
        """The layer of a self-attention by its path in the base model; None where none stands."""
        return None if self.attention is None else _layer((self.attention,), key)

    def owner(self, name: str) -> str:
        """The path of the owner of the FFN that stands at the path `name`."""
        return name.removesuffix(f".{self.chain[0]}") if self.chain else name

    def tower(self, key: str) -> str:
        """Which stack of layers an FFN belongs to, "encoder" or "decoder"; "" where there is but
        one. Each stack sees tokens of its own."""
        return key.partition(".")[0] if len(self.places) > 1 else ""


def _layer(patterns: tuple[str, ...], key: str) -> int | None:
    for place in patterns:
        match = re.fullmatch(re.escape(place).replace(re.escape("{}"), r"(\d+)"), key)
        if match:
            return int(match[1])
    return None


def _llama_like(
    model_type: str,
    owner: str,
    activation: str = "hidden_act",
    attention: str | None = "layers.{}.self_attn",
) -> Family:
    weights = Projections(owner=owner, up="up_proj", gate="gate_proj", down="down_proj")
    return Family(
        model_type=model_type, projections=(weights,), activation=activation, attention=attention
    )


def _bert_like(model_type: str, owner: str, *, shifted: bool) -> Family:
    return Family(
        model_type=model_type,
        projections=(Projections(owner=owner, up="intermediate.dense", down="output.dense"),),
        places=("encoder.layer.{}",),
        chain=("intermediate", "output.dense"),
        kind="encoder",
        optional=("pooler",),
        shifted=shifted,
    )


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="gpt2",
            projections=(Projections(owner="GPT2MLP", up="c_fc", down="c_proj", transposed=True),),
            places=("h.{}.mlp",),
            activation="activation_function",
            attention="h.{}.attn",
        ),
        Family(
            model_type="gptj",
            projections=(Projections(owner="GPTJMLP", up="fc_in", down="fc_out"),),
            places=("h.{}.mlp",),
            activation="activation_function",
        ),
        _llama_like("llama", "LlamaMLP"),
        _llama_like("mistral", "MistralMLP"),
        _llama_like("qwen2", "Qwen2MLP"),
        _llama_like("qwen3", "Qwen3MLP"),
        _llama_like("gemma", "GemmaMLP", attention=None),
        _llama_like("gemma2", "Gemma2MLP", "hidden_activation", None),
        _llama_like("gemma3_text", "Gemma3MLP", "hidden_activation", None),
        Family(
            model_type="phi3",
            projections=(
                Projections(owner="Phi3MLP", up="gate_up_proj", down="down_proj", fused=True),
            ),
        ),
        _bert_like("bert", "BertLayer", shifted=False),
        _bert_like("roberta", "RobertaLayer", shifted=True),
        Family(
            model_type="t5",
            projections=(
                Projections(owner="T5DenseActDense", up="wi", down="wo"),
                Projections(owner="T5DenseGatedActDense", up="wi_1", gate="wi_0", down="wo"),
            ),
            places=(
                "encoder.block.{}.layer.1.DenseReluDense",
                "decoder.block.{}.layer.2.DenseReluDense",
            ),
            activation="dense_act_fn",
            kind="seq2seq",
            optional=("lm_head", "qa_outputs"),
        ),
        Family(
            model_type="bart",
            projections=(
                Projections(owner="BartEncoderLayer", up="fc1", down="fc2"),
                Projections(owner="BartDecoderLayer", up="fc1", down="fc2"),
            ),
            places=("encoder.layers.{}", "decoder.layers.{}"),
            chain=("fc1", "activation_fn", "fc2"),
            muted=("activation_dropout",),
            activation="activation_function",
            kind="seq2seq",
        ),
        Family(
            model_type="vit",
            projections=(Projections(owner="ViTMLP", up="fc1", down="fc2"),),
            kind="vision",
            optional=("pooler", "embeddings.mask_token"),
        ),
    )
}


def family(model_type: str) -> Family:
    """The family of a model type, converted or not; an `UndenseError` where it is not known."""
    stock = model_type.removeprefix(PREFIX)
    if stock in FAMILIES:
        return FAMILIES[stock]
    near = difflib.get_close_matches(stock, FAMILIES, n=1)
    hint = f" Nearest: {near[0]}." if near else ""
    raise UndenseError(
        f"model type {stock!r}: its FFNs are not known; supported: {', '.join(FAMILIES)}.{hint}"
        " Another family is one entry in undense/convert/families.py"
    )
