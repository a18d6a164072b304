"""Dialogues without tokens: types, readers, cleaning, de-duplication, decontamination. Loads no jax."""
