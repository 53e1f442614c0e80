"""One cell of the matrix: a component in a tiny model of a family, taken through everything.

Each check raises where the claim does not hold. `run` gives "ok" or the error by check, which is
what `undense ls --matrix` prints; `make bench` runs every cell, the test suite some.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hosts import calibration, inputs, outputs, tiny
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

import undense
from undense.contract import component_class, components
from undense.convert.convert import _auto_class, convert_
from undense.convert.sites import find_components, find_sites
from undense.errors import UndenseError
from undense.measure.flops import count_flops


@dataclass(kw_only=True)
class Cell:
    """A converted model beside what it was, and a folder to write into."""

    model: PreTrainedModel
    dense: PreTrainedModel
    batch: dict[str, Tensor]
    folder: Path


def converted(host: str, component: str, folder: Path) -> Cell:
    """The component with its defaults, fitted to the host, at every FFN of a tiny model."""
    dense = tiny(host)
    model = copy.deepcopy(dense)
    told = convert_(model, component_class(component).fitted, calibration=calibration(model))
    assert not find_sites(model) and len(find_components(model)) == len(told.sites)
    assert all(site.relative_error < 1.1 for site in told.sites)  # 1 is no FFN at all
    batch = inputs(model)
    assert outputs(model, batch).isfinite().all()
    assert not torch.equal(outputs(model, batch), outputs(dense, batch)) or component == "dense"
    return Cell(model=model, dense=dense, batch=batch, folder=folder)


def flops(cell: Cell) -> None:
    """What the formula says is what is dispatched, to the integer, forward and backward."""
    model = copy.deepcopy(cell.model).train()
    for batch in (cell.batch, inputs(model, rows=3, tokens=7)):
        counted(model, batch)


def counted(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    """The same for one batch."""
    count = count_flops(lambda: model(**batch), model=model, backward=True)
    assert len(count.components) == len(find_components(model))
    for part in count.components:
        assert part.analytic_forward == part.dispatched_forward, part
        assert part.analytic_backward == part.dispatched_backward, part
    assert count.analytic == count.dispatched


def reload(cell: Cell) -> None:
    """Saved and loaded by the Auto class of its head and of its base: the same bits."""
    cell.model.save_pretrained(cell.folder)
    again = _auto_class(cell.model.config).from_pretrained(cell.folder)
    assert type(again) is type(cell.model)
    assert torch.equal(outputs(again, cell.batch), outputs(cell.model, cell.batch))
    base = AutoModel.from_pretrained(cell.folder)
    wanted = cell.model.base_model
    if type(base).__name__.removeprefix("Undense") == type(wanted).__name__.removeprefix("Undense"):
        assert torch.equal(outputs(base, cell.batch), outputs(wanted, cell.batch))


def use(cell: Cell) -> None:
    """A model that writes writes with its cache what it writes without; another encodes a row
    among padded ones as it does alone."""
    model, batch = (cell.model, dict(cell.batch))
    if model.can_generate():
        batch = {"input_ids": batch["input_ids"]}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
        cached = model.generate(**batch, **options, use_cache=True)
        assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    elif "input_ids" in batch:
        ids = batch["input_ids"]
        padded = torch.cat([ids, torch.full_like(ids[:, :3], model.config.pad_token_id)], 1)
        mask = torch.cat([torch.ones_like(ids), torch.zeros_like(ids[:, :3])], 1)
        found = outputs(model, {"input_ids": padded, "attention_mask": mask})
        alone = outputs(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        torch.testing.assert_close(found[:, : ids.shape[1]], alone, rtol=1e-4, atol=1e-4)
    else:
        one = {key: value[:1] for key, value in batch.items()}
        torch.testing.assert_close(
            outputs(model, batch)[:1], outputs(model, one), rtol=1e-4, atol=1e-4
        )


def lora(cell: Cell) -> None:
    """Adapters in the attention and the FFNs whole: one step, saved, loaded into the dense model,
    merged: the same outputs."""
    model = copy.deepcopy(cell.model)
    start = outputs(model, cell.batch)
    adapted = undense.add_lora_(model, rank=2)
    torch.testing.assert_close(outputs(model, cell.batch), start)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    ours = [p for ffn in find_components(model).values() for p in ffn.parameters()]
    assert {id(p) for p in ours if p.requires_grad} <= {id(p) for p in trained}
    optimizer = torch.optim.SGD(trained, lr=0.05)
    for _ in range(2):  # the second step is the first in which A of BA has a gradient
        optimizer.zero_grad()
        adapted(**cell.batch)[0].square().mean().backward()
        optimizer.step()
    wanted = outputs(model, cell.batch)
    assert not torch.allclose(wanted, start)
    undense.save_adapters(adapted, cell.folder / "adapters")
    again = copy.deepcopy(cell.dense)
    loaded = undense.load_adapters_(again, cell.folder / "adapters")
    assert torch.equal(outputs(again, cell.batch), wanted)
    merged = loaded.merge_and_unload()
    assert merged is again and type(merged) is type(cell.model)
    torch.testing.assert_close(outputs(merged, cell.batch), wanted, rtol=1e-4, atol=1e-4)


def revert(cell: Cell) -> None:
    """The dense FFNs put back: the model as it was, bit by bit."""
    undense.revert_(cell.model)
    assert type(cell.model) is type(cell.dense)
    assert torch.equal(outputs(cell.model, cell.batch), outputs(cell.dense, cell.batch))
    kept, wanted = (cell.model.state_dict(), cell.dense.state_dict())
    assert kept.keys() == wanted.keys()


CHECKS: dict[str, Callable[[Cell], None]] = {
    "flops": flops,
    "reload": reload,
    "use": use,
    "lora": lora,
    "revert": revert,
}


def run(host: str, component: str, folder: Path) -> dict[str, str]:
    """Every check of one cell: "ok", or what went wrong in one line."""
    try:
        cell = converted(host, component, folder)
    except (UndenseError, AssertionError) as error:
        return {"convert": _line(error)}
    found = {"convert": "ok"}
    for name, check in CHECKS.items():
        try:
            check(cell)
            found[name] = "ok"
        except (UndenseError, AssertionError) as error:
            found[name] = _line(error)
    return found


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def some(hosts: list[str]) -> list[tuple[str, str]]:
    """Cells in which every host and every component appears: a diagonal, wrapped around."""
    names = list(components())
    longest = max(len(hosts), len(names))
    return [(hosts[i % len(hosts)], names[i % len(names)]) for i in range(longest)]
