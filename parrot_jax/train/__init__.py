"""The training loop: optimizer, step, checkpoints, held-out evaluation, run folders.

config.py       settings; loads no jax
optim.py        steps, learning rate, AdamW
rounding.py     stochastic rounding
forward.py      how a run's model is called
objectives.py   what is minimised
train_state.py  the weights: what is trained, and what is frozen
step.py         what one step does
state.py        the state as a whole: made, described, saved, restored
program.py      the step, state and rows as config and mesh decide them
run_folder.py   everything a run leaves
run_data.py     what data a run was made from
setup.py        what comes before the first step
perplexity.py   perplexity by speaker and by turn
sample.py       replies to held-out histories
loop.py         the order of a run
preemption.py   SIGTERM
watchdog.py     ends a process that hangs
profile.py      traces of chosen steps
trackers.py     TensorBoard, Weights & Biases
chips.py        accelerators by name
topologies.py   devices to compile for that you don't have
plan.py         the step compiled for them: does it fit?
preflight.py    what a long run needs, tried in minutes
"""
