"""Whole models built from mixers and FFN components, as Hugging Face classes."""
