"""Weights on disk: checkpoints, Hugging Face folders, and conversion between them.

dtypes.py        dtypes that weights are stored in; does not import jax
names.py         maps our tensor names and dims to Hugging Face's and back
arrays.py        writes and reads arrays through orbax, with checksums
fingerprints.py  hashes of the bits of weights
layers.py        flattens a parameter tree by its names on disk; splits and stacks layers
damage.py        decides whether a failed read means a damaged checkpoint
checkpoints.py   the checkpoints of a run: atomic, sharded, read whole or one tensor at a time
lazy_arrays.py   saves a checkpoint whose arrays are created one after another
exports.py       the record of an export: which checkpoint it came from; does not import jax
adapters.py      checkpoints of adapters: their base, and both merged
model_folder.py  a folder with weights: a run, or a converted model
frozen.py        the frozen weights under adapters in memory, quantised or not
hf_folder.py     reads config.json and safetensors, a slice at a time
peft_folder.py   reads and writes adapters as peft does
hf_to_flax.py    Hugging Face to checkpoint
flax_to_hf.py    checkpoint to Hugging Face
verify.py        compares a Hugging Face folder with a checkpoint
model_card.py    the model card of an export
hub.py           downloads from and uploads to the Hugging Face hub; does not import jax
"""
