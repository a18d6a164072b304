"""The training loop: optimizer, step, checkpoints, evaluation on held-out dialogues, run folders."""
