"""Checkpoints: sealed files, safe loading, the search for the newest one, hooks, and resumption."""
