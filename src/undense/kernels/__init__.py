"""Compiled code where plain PyTorch has no fast form, and the plain form beside it."""
