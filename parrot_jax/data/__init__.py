"""From dialogues to training rows: tokenizer, template, masks, windows, packing, cached arrays.

data_config.py    settings; loads no jax
tokenizers/       text to ids: the interface, and a file for each kind
templates/        chat formats: the interface, and a file for each
masks.py          which turns bear loss
windows.py        dialogues of any length to windows of at most T tokens
packing.py        windows to rows
rows.py           from dialogues to packed rows; writes no file
cache_key.py      all that decides the rows of a split, as a hash
read_progress.py  how much of the files has been read
prepare.py        packed rows on disk, once
pipeline.py       batches by step; the only file that imports grain
histories.py      held-out histories to sample replies to
"""
