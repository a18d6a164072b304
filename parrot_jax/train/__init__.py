"""The training loop: optimizer, step, checkpoints, held-out evaluation, run folders.

train_config.py  settings; loads no jax
optim.py         steps, learning rate, AdamW
rounding.py      stochastic rounding
forward.py       runs the model in an objective or an evaluation
objectives.py    the training loss
preference.py    the objective on preference pairs
reference.py     log-probabilities under the reference model, cached
train_state.py   trainable and frozen weights
step.py          one optimizer step
state.py         creates, describes, saves and restores the state
base.py          the frozen weights of adapters
program.py       compiled step, state and batch placement of a config and mesh
run_folder.py    the files of a run
run_data.py      records and compares the data of a run
setup.py         everything before the first step
perplexity.py    perplexity by speaker and by turn
pair_evaluation.py  margin and accuracy on held-out pairs
sample.py        replies to held-out histories
loop.py          the training loop
preemption.py    SIGTERM
watchdog.py      ends a process that hangs
profile.py       traces of chosen steps
trackers.py      TensorBoard, Weights & Biases
chips.py         accelerators by name
hlo_text.py      reads the text of a compiled program
collectives.py   bytes that a compiled step sends between devices
scaling.py       the same by formula
topologies.py    target hardware for compiling, by name
plan.py          predicts memory and time of a run on other hardware
preflight.py     short test of everything a long run needs
"""
