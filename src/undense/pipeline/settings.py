"""What a run or a step is asked to do. Nothing heavy is imported: a command's help shows these."""

from __future__ import annotations

from dataclasses import dataclass

from undense.errors import UndenseError
from undense.train.settings import require_seed

TINY = "tiny"  # the name of the bundled model


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """A dense model against its replacements, with the same data and training for every arm."""

    model: str = TINY
    """"tiny" for the bundled model, a folder, or a hub name."""
    data: str | None = None
    """A text file or a folder of text; by default the Python standard library's own source."""
    percents: tuple[float, ...] = (25,)
    """Shares of the dense FFN FLOPs to try."""
    arms: tuple[str, ...] | None = None
    """FFN specs to compare; by default, for each share, ultra, ultra-all and narrow, then none."""
    distill_steps: int = 40
    """Steps of layer-wise distillation; arms with nothing to distil fine-tune that much longer."""
    finetune_steps: int = 40
    """Steps of fine-tuning of all weights."""
    distill_rate: float = 2e-3
    """Step size of the distillation."""
    finetune_rate: float = 2e-4
    """Step size of the fine-tuning."""
    batch: int = 8
    """Blocks of text in a step."""
    context: int = 256
    """Tokens in a block."""
    calibration_blocks: int = 32
    """Blocks of training text that the closed-form start looks at."""
    eval_blocks: int | None = 256
    """Held-out blocks to evaluate on; all of them if None."""
    timing_rounds: int = 15
    """Interleaved rounds of the timing."""
    threads: int = 2
    """Threads that torch may use."""
    bf16: bool = False
    """Train under bf16 autocast."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"distill_steps": 1, "finetune_steps": 1, "batch": 1, "context": 2, "threads": 1}
        least |= {"calibration_blocks": 1, "timing_rounds": 2}
        for name, least_value in least.items():
            if (value := getattr(self, name)) < least_value:
                raise UndenseError(f"demo: {name}={value} must be at least {least_value}")
        for name in ("distill_rate", "finetune_rate"):
            if not getattr(self, name) > 0:
                raise UndenseError(f"demo: {name}={getattr(self, name)} must be above 0")
        _require_blocks(self.eval_blocks)
        require_seed(self.seed)
        if self.arms is not None and len(set(self.arms)) < len(self.arms):
            raise UndenseError(f"demo: arms={' '.join(self.arms)} names one twice")
        if self.arms is not None and "dense" not in self.arms:
            raise UndenseError("demo: arms must contain 'dense', which the others are held against")
        for percent in self.percents:
            if not 0 < percent <= 100:
                raise UndenseError(f"demo: percents={percent:g} must be above 0 and at most 100")

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms in the order in which they run and are reported."""
        if self.arms is not None:
            return self.arms
        shares = [
            f"{kind}-{percent:g}"
            for percent in self.percents
            for kind in ("ultra", "ultra-all", "narrow")
        ]
        return ("dense", *shares, "none")

    @property
    def tokens_seen(self) -> int:
        """Training tokens of every arm."""
        return (self.distill_steps + self.finetune_steps) * self.batch * self.context


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Text to learn from and to be judged on: `path` None is the standard library's source."""

    path: str | None = None
    context: int = 256
    eval_blocks: int | None = 256
    calibration_blocks: int = 32

    def __post_init__(self) -> None:
        _require_blocks(self.eval_blocks)
        if self.calibration_blocks < 1:
            raise UndenseError(
                f"calibration_blocks={self.calibration_blocks}: the start needs at least one"
            )


def _require_blocks(eval_blocks: int | None) -> None:
    if eval_blocks is not None and eval_blocks < 1:
        raise UndenseError(f"eval_blocks={eval_blocks} must be at least 1, or None for all of them")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """What replaces which FFNs. `mixer`: what stands for every self-attention, None: itself."""

    model: str
    ffn: str = "ultra-25"
    mixer: str | None = None
    targets: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    data: DataSettings = DataSettings()
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Where a converted folder comes from, and the text."""

    model: str
    teacher: str | None = None
    """The dense model; by default the source that the folder's recipe.json names."""
    data: DataSettings = DataSettings()
