"""Checkpoints: files that are whole and sealed, safe loading, the newest one, hooks, and how a run goes on."""
