"""Converts dialogues to training rows: tokenizer, template, masks, windows, packing, cache.

data_config.py    settings; does not import jax
tokenizers/       text to ids: the interface, and one file per kind
templates/        chat templates: the interface, and one file per template
masks.py          the loss mask, per turn
windows.py        cuts dialogues into windows of at most T tokens
pair_windows.py   cuts preference pairs into two windows each
packing.py        packs windows or pairs into rows
rows.py           dialogues or pairs to packed rows, in memory
live_text.py      a dialogue as the model sees it
cache_key.py      hash of everything that determines the rows
parts.py          the rows of a block of dialogues, in several processes
read_progress.py  how much of the files has been read
prepare.py        packed rows on disk, cached
pipeline.py       batches by step; the only file that imports grain
histories.py      held-out histories for sample texts
"""
