"""The held-out loss: one number, the same for every model that is compared."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.train.tokens import BlockDataset, bytes_a_token


@torch.no_grad()
def heldout_loss(model: PreTrainedModel, dataset: BlockDataset, *, batch: int = 16) -> float:
    """Mean nats per predicted token over all blocks, in the model's own dtype.

    loss = −(1/N) Σ ln p(token | tokens before it in the block), N = blocks × (context − 1);
    summed in float64, so the batch size does not show. The model's mode is left as it was."""
    was_training = model.training
    model.eval()
    try:
        total = torch.zeros((), dtype=torch.float64)
        predictions = 0
        for rows in DataLoader(dataset, batch_size=batch):
            ids = rows["input_ids"].to(model.device)
            logits = model(input_ids=ids).logits[:, :-1].float()
            targets = ids[:, 1:]
            losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            total += losses.double().sum().cpu()
            predictions += targets.numel()
    finally:
        model.train(was_training)
    return float(total / predictions)


def heldout_bytes(tokenizer: PreTrainedTokenizerBase, dataset: BlockDataset) -> int:
    """Bytes of text that the predicted tokens of `dataset` stand for: all but the first of each
    block. The end of a document is predicted, and costs nats, but is no text."""
    return int(bytes_a_token(tokenizer)[dataset.blocks[:, 1:].numpy()].sum())
