"""Converts dialogues to training rows: tokenizer, template, masks, windows, packing, cache."""
