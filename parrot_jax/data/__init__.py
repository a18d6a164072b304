"""From dialogues to training rows: tokenizer, template, masks, windows, packing, cached arrays."""
