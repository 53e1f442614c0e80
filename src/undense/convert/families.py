"""Where each Hugging Face family keeps its dense FFN. Supporting another one is one entry here."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from undense.errors import UndenseError

PREFIX = "undense_"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family; the defaults are the layout of Llama and of those that copied it.

    `model_type`: as in `config.json`. `mlp`: class name of the dense FFN. `place`: its path in the
    base model, {} being the layer. `up`, `gate`, `down`: the projections in it. `transposed`: they
    are `Conv1D`, which keeps its weight as (inputs, outputs). `activation`: key of the config.
    """

    model_type: str
    mlp: str
    place: str = "layers.{}.mlp"
    up: str = "up_proj"
    gate: str | None = "gate_proj"
    down: str = "down_proj"
    transposed: bool = False
    activation: str = "hidden_act"

    def layer(self, key: str) -> int | None:
        """The layer of an FFN by its path in the base model; None where no FFN stands."""
        pattern = re.escape(self.place).replace(re.escape("{}"), r"(\d+)")
        match = re.fullmatch(pattern, key)
        return int(match[1]) if match else None


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="gpt2",
            mlp="GPT2MLP",
            place="h.{}.mlp",
            up="c_fc",
            gate=None,
            down="c_proj",
            transposed=True,
            activation="activation_function",
        ),
        Family(model_type="llama", mlp="LlamaMLP"),
        Family(model_type="mistral", mlp="MistralMLP"),
        Family(model_type="qwen2", mlp="Qwen2MLP"),
        Family(model_type="qwen3", mlp="Qwen3MLP"),
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
