"""The training loop: optimizer, step, checkpoints, held-out evaluation, run folders."""
