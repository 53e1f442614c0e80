"""Options that say which text a verb learns from and is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from undense.pipeline.settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text, cut into blocks; the same default everywhere."""

    data: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = DataSettings.path
    """A text file or a folder of text; by default the Python standard library's own source."""
    context: int = DataSettings.context
    """Tokens in a block."""
    eval_blocks: Annotated[int | None, tyro.conf.arg(metavar="INT|None")] = DataSettings.eval_blocks
    """Held-out blocks to evaluate on; all of them if None."""

    def settings(
        self, *, calibration_blocks: int = DataSettings.calibration_blocks
    ) -> DataSettings:
        """The same for the pipeline."""
        return DataSettings(
            path=self.data,
            context=self.context,
            eval_blocks=self.eval_blocks,
            calibration_blocks=calibration_blocks,
        )


def block(config: Any, settings: Any) -> int:
    """Tokens in a block: the `context` wanted, or what the model has positions for."""
    return min(settings.context, getattr(config, "max_position_embeddings", settings.context))


TextOptions = Annotated[Text, tyro.conf.arg(name="")]
