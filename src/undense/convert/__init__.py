"""Putting components into somebody else's model, and getting them back from disk.

Nothing is imported here: `registration` must stay importable at no cost.
"""
