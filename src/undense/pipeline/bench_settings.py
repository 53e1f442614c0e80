"""What a speed measurement is asked to do. Nothing heavy is imported: a command's help shows it."""

from __future__ import annotations

from dataclasses import dataclass

from undense.errors import UndenseError
from undense.train.settings import require_seed

DTYPES = ("fp32", "bf16")
MODES = ("forward", "training")
MEMORIES = ("cold", "warm")
WORKLOADS = ("prefill", "decode", "training")


@dataclass(frozen=True, kw_only=True)
class FFNBenchSettings:
    """One FFN of every kind against the dense one, by width, type, number of tokens and cache."""

    arms: tuple[str, ...] = (
        *("ultra-25", "ultra-12", "ultra-5", "ultra-small-25", "block_topk-25"),
        *("narrow-25", "narrow-12", "low_rank-25", "gated_dense-25"),
    )
    """FFN specs (see `undense ls`); the dense FFN is always there."""
    tokens: tuple[int, ...] = (1, 16, 128, 512, 1024, 4096)
    """Tokens in a call."""
    widths: tuple[int, ...] = (128, 768, 2048, 4096)
    """Widths of the residual stream."""
    dtypes: tuple[str, ...] = DTYPES
    """Types of weights and inputs: fp32, bf16."""
    modes: tuple[str, ...] = MODES
    """forward, and training: forward and backward, for the input and every parameter."""
    memories: tuple[str, ...] = MEMORIES
    """cold: every call takes the next of several copies of the weights; warm: always the same."""
    gated: bool = False
    """The dense FFN is a gated one (SiLU, hidden 8/3 of the width) and not GPT-2's (GELU, 4)."""
    compiled: bool = False
    """Compile the dense FFN too; the yardstick is the faster of both."""
    rounds: int = 15
    """Interleaved rounds; fewer, down to 5, where the cap asks for it."""
    cap_seconds: float = 30.0
    """Most time for one cell; one that would take longer with 5 rounds is skipped and marked."""
    rotate_mb: float | None = None
    """How much the copies of one arm's weights span; by default twice the last-level cache."""
    threads: int | None = None
    """Threads that torch may use; by default as it chooses."""
    seed: int = 0
    """Seed of weights and inputs."""

    def __post_init__(self) -> None:
        verb = "bench ffn"
        require_arms(verb, self.arms)
        _require_among(verb, "dtypes", self.dtypes, DTYPES)
        _require_among(verb, "modes", self.modes, MODES)
        _require_among(verb, "memories", self.memories, MEMORIES)
        _require_numbers(verb, "tokens", self.tokens)
        _require_numbers(verb, "widths", self.widths)
        require_timing(verb, self.rounds, self.threads)
        for name in ("cap_seconds", "rotate_mb"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UndenseError(f"{verb}: {name}={value:g} must be above 0")
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class ModelBenchSettings:
    """Whole models, dense and with other FFNs: the same batches, all arms in turn."""

    models: tuple[str, ...] = ("example:gpt2",)
    arms: tuple[str, ...] = ("ultra-25", "ultra-12", "narrow-25")
    """FFN specs; the dense model, and one without FFNs for the bound, are always there."""
    workloads: tuple[str, ...] = WORKLOADS
    """prefill: logits of the last token; decode: with a KV cache; training: forward, backward."""
    tokens: int = 512
    """Tokens of the prompt that is read, and of the sequence that is trained on."""
    new: int = 16
    """Tokens that are decoded after the prompt."""
    batch: int = 1
    """Number of sequences."""
    dtypes: tuple[str, ...] = ("fp32",)
    """Types of the weights: fp32, bf16."""
    memory: bool = True
    """Measure peak memory too, each arm in a process of its own."""
    rounds: int = 9
    """Interleaved rounds."""
    threads: int | None = None
    """Threads that torch may use; by default as it chooses."""
    seed: int = 0

    def __post_init__(self) -> None:
        verb = "bench model"
        require_arms(verb, self.arms)
        if not self.models or len(set(self.models)) < len(self.models):
            raise UndenseError(f"{verb}: name at least one model, and each only once")
        _require_among(verb, "workloads", self.workloads, WORKLOADS)
        _require_among(verb, "dtypes", self.dtypes, DTYPES)
        for name, least in (("tokens", 2), ("new", 1), ("batch", 1)):
            if (value := getattr(self, name)) < least:
                raise UndenseError(f"{verb}: {name}={value} must be at least {least}")
        require_timing(verb, self.rounds, self.threads)
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class CeilingSettings:
    """What a model could gain on this machine with other FFNs, before anything is trained."""

    model: str
    arms: tuple[str, ...] = (*("ultra-50", "ultra-25", "ultra-12", "ultra-small-25", "narrow-25"),)
    """FFN specs to try."""
    tokens: tuple[int, ...] = (1, 16, 128, 512)
    """New tokens in a forward pass: 1 is decoding, more is reading a prompt."""
    past: int = 128
    """Tokens that are in the cache already."""
    dtype: str = "fp32"
    """Type of the weights: fp32 or bf16."""
    worth: float = 1.1
    """Whole-model speed-up from which on it is a go."""
    seconds: float = 30.0
    """About how long to time."""
    threads: int | None = None
    """Threads that torch may use; by default as it chooses."""
    seed: int = 0

    def __post_init__(self) -> None:
        verb = "estimate"
        require_arms(verb, self.arms)
        _require_numbers(verb, "tokens", self.tokens)
        _require_among(verb, "dtype", (self.dtype,), DTYPES)
        if self.past < 0:
            raise UndenseError(f"{verb}: past={self.past} must be at least 0")
        if not self.worth > 1:
            raise UndenseError(f"{verb}: worth={self.worth:g} must be above 1")
        if not self.seconds > 0:
            raise UndenseError(f"{verb}: seconds={self.seconds:g} must be above 0")
        require_timing(verb, 2, self.threads)
        require_seed(self.seed)


def require_arms(verb: str, arms: tuple[str, ...]) -> None:
    """Raises `UndenseError` for no arm, the same one twice, or one that is always there."""
    if not arms:
        raise UndenseError(f"{verb}: arms names no FFN; try --arms ultra-25")
    if len(set(arms)) < len(arms):
        raise UndenseError(f"{verb}: arms={' '.join(arms)} names one twice")
    if "dense" in arms:
        raise UndenseError(f"{verb}: 'dense' is always measured; leave it out of --arms")


def require_timing(verb: str, rounds: int, threads: int | None) -> None:
    """Raises `UndenseError` for what cannot be timed."""
    if rounds < 2:
        raise UndenseError(f"{verb}: rounds={rounds} must be at least 2")
    if threads is not None and threads < 1:
        raise UndenseError(f"{verb}: threads={threads} must be at least 1")


def _require_among(verb: str, name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise UndenseError(f"{verb}: {name}={value!r} must be one of {', '.join(known)}")
    if not values:
        raise UndenseError(f"{verb}: {name} is empty; give at least one of {', '.join(known)}")


def _require_numbers(verb: str, name: str, values: tuple[int, ...]) -> None:
    if not values:
        raise UndenseError(f"{verb}: {name} is empty; give at least one number")
    for value in values:
        if value < 1:
            raise UndenseError(f"{verb}: {name}={value} must be at least 1")
