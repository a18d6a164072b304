"""Dialogues as text: types, readers, cleaning, deduplication, decontamination. No jax."""
