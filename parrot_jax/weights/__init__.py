"""Weights on disk: our checkpoints, Hugging Face's folders, and the way between them.

names.py         the one table of names and dims, read both ways
checkpoints.py   one array a layer and tensor, atomic, sharded; whole or one tensor at a time
model_folder.py  a folder with weights: a run, or what was converted
hf_folder.py     config.json and safetensors, read a slice at a time
hf_to_flax.py    in
flax_to_hf.py    out
verify.py        are they the same?
model_card.py    what an export says of itself
hub.py           from and to the Hugging Face hub
"""
