"""Dialogues without tokens: types, readers, cleaning, duplicates, benchmarks. Loads no jax."""
