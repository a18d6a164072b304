"""Weights on disk: our checkpoints, Hugging Face's folders, and the way between them.

dtypes.py        the types that weights are stored in; loads no jax
names.py         the one table of names and dims, read both ways
arrays.py        how arrays are written and read through orbax, with checksums
layers.py        a tree of weights by its names on disk, its layers apart
damage.py        which failed reads mean that a checkpoint is damaged
checkpoints.py   the checkpoints of a run: atomic, sharded, whole or one tensor at a time
lazy_arrays.py   a checkpoint of arrays that are made one after another
exports.py       which checkpoint a folder is the export of; loads no jax
model_folder.py  a folder with weights: a run, or what was converted
hf_folder.py     config.json and safetensors, read a slice at a time
hf_to_flax.py    in
flax_to_hf.py    out
verify.py        are they the same?
model_card.py    the model card of an export
hub.py           from and to the Hugging Face hub; loads no jax
"""
