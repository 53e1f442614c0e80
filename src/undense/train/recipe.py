"""A pretraining run as data: what to build, on which text, for how long."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from undense.errors import UndenseError

Host = Literal["gpt2", "llama", "spectral"]
Precision = Literal["fp32", "bf16"]
Storage = Literal["fp32", "fp16"]
Tokens = Literal["bpe", "bytes"]

_KINDS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (float, int),
    int | None: (int, NoneType),
    str | None: (str, NoneType),
    str | dict[str, Any] | None: (str, dict, NoneType),
    dict[str, float]: (dict,),
    bool: (bool,),
    Host: (str,),
    Precision: (str,),
    Storage: (str,),
    Tokens: (str,),
}
_CHOICES = {"host": Host, "dtype": Precision, "stored": Storage, "tokenizer": Tokens}
_COUNTS = ("hidden_size", "layers", "heads", "intermediate", "vocab_size", "steps", "batch")
_COUNTS += ("save_every", "save_ffns_every", "eval_every", "log_every", "eval_limit")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Everything that decides the weights; two equal recipes on one corpus give equal runs."""

    host: Host = "gpt2"  # the Hugging Face architecture around the FFNs
    hidden_size: int = 192
    layers: int = 4
    heads: int = 6
    intermediate: int | None = None  # None: 4d (gpt2), 8d/3 rounded up to 16 (llama)
    ffn: str | dict[str, Any] | None = None  # a spec as --ffn takes; None: the host's own dense
    ffns_from: str | None = None  # start with the FFNs of this folder (save_ffns_every wrote it)
    guide: float = 0.0  # share of the steps in which a dense FFN guides ours, see train/guide.py
    context: int = 256  # tokens a block
    tokenizer: Tokens = "bpe"  # byte-level, trained on the training split; or a token a byte
    vocab_size: int = 2048  # of the BPE; bytes have 258, the end of text and padding with them
    data: str | None = None  # text file or folder; None: the Python standard library
    steps: int = 1000
    batch: int = 16  # blocks a step
    learning_rate: float = 1e-3  # the top of the cosine
    warmup: float = 0.05  # share of the steps
    mixer: str | dict[str, Any] | None = None  # spectral: a name or config; None: its default
    attention_every: int | None = None  # spectral: every n-th layer is windowed attention
    factor_rates: bool = False  # each factor's rate by its fan-in, see train/groups.py
    rates: dict[str, float] = field(default_factory=dict)  # x the rate, by glob of parameter names
    factor_scales: bool = False  # each factor's start by its fans, see train/scales.py
    scales: dict[str, float] = field(default_factory=dict)  # x the start, by glob of names
    weight_decay: float = 0.1  # on matrices only
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0  # gradient norm
    divergence: float = 1.0  # nats that the running loss may rise above its lowest
    reverts: int = 3  # how often a run that diverges may go back, at half the learning rate
    dtype: Precision = "fp32"  # bf16 is autocast: the weights stay float32
    stored: Storage = "fp32"  # the weights on disk; fp16 is rounded before it is evaluated
    seed: int = 0
    save_every: int = 200  # steps
    save_ffns_every: int | None = None  # steps between savings of the FFNs alone, in ffns/
    eval_every: int = 200
    log_every: int = 10
    eval_limit: int | None = None  # held-out blocks; None: all

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            # A whole number is a fine float; the rest must be of its own type, true/false too.
            kinds = _KINDS[each.type]
            if type(value) not in kinds:
                raise UndenseError(
                    f"recipe: {each.name}={value!r}; expected {' or '.join(map(_name, kinds))}"
                )
        for name, kind in _CHOICES.items():
            if (value := getattr(self, name)) not in (choices := get_args(kind)):
                raise UndenseError(f"recipe: {name}={value!r}; choose one of {', '.join(choices)}")
        for name in _COUNTS:
            if (value := getattr(self, name)) is not None and value < 1:
                raise UndenseError(f"recipe: {name}={value}; it must be at least 1")
        if self.host != "spectral" and (self.mixer or self.attention_every):
            raise UndenseError(
                f"recipe: mixer and attention_every need host='spectral', not {self.host!r}"
            )
        alone = [n for n in ("guide", "save_ffns_every", "ffns_from") if getattr(self, n)]
        if alone and (self.ffn is None or self.host == "spectral"):
            raise UndenseError(
                f"recipe: {', '.join(alone)} needs an ffn, in host='gpt2' or 'llama'; here"
                f" ffn={self.ffn!r} and host={self.host!r}"
            )
        if self.ffns_from and (self.scales or self.factor_scales):
            raise UndenseError(
                "recipe: scales and factor_scales are of a random start; with ffns_from leave them"
                " out"
            )
        if not 0 <= self.guide <= 1:
            raise UndenseError(f"recipe: guide={self.guide}; a share of the steps in [0, 1]")
        if self.context < 2:
            raise UndenseError(f"recipe: context={self.context}; it must be at least 2")
        if self.hidden_size % self.heads:
            raise UndenseError(
                f"recipe: hidden_size={self.hidden_size} must be divisible by heads={self.heads}"
            )
        if not self.learning_rate > 0:
            raise UndenseError(f"recipe: learning_rate={self.learning_rate}; it must be positive")
        for name in ("rates", "scales"):
            for pattern, number in getattr(self, name).items():
                if type(number) not in (int, float) or not 0 <= number < math.inf:
                    raise UndenseError(
                        f"recipe: {name}: {pattern!r}: {number!r} must be a number of at least 0"
                    )
        if self.reverts < 0 or not self.divergence > 0:
            raise UndenseError(
                f"recipe: reverts={self.reverts} must be at least 0 and divergence="
                f"{self.divergence} above 0"
            )
        if not 0 <= self.warmup < 1:
            raise UndenseError(f"recipe: warmup={self.warmup}; a share of the steps in [0, 1)")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PretrainRecipe":
        """Raises `UndenseError` for a field that no recipe has."""
        known = [each.name for each in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise UndenseError(
                f"recipe: unknown field {', '.join(unknown)}; known are {', '.join(known)}"
            )
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> "PretrainRecipe":
        """From a JSON file. Raises `UndenseError` where it is missing, or no JSON object."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UndenseError(f"recipe {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UndenseError(f"recipe {path}: no valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise UndenseError(f"recipe {path}: expected a JSON object of fields")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _name(kind: type) -> str:
    return "null" if kind is NoneType else kind.__name__
