"""Cheaper feed-forward networks for transformers, and the truth about what they cost and save.

Importing this package registers converted models with `transformers`, so that the stock
`AutoModelForCausalLM.from_pretrained(folder)` loads them.
"""

__version__ = "0.1.0"
