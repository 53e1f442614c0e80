"""Data, tokens, n-grams; pretraining and fine-tuning by the Trainer; layer-wise distillation."""
