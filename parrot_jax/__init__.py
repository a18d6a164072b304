"""parrot_jax: train models that ask as people do, collect dialogues with them, train chat models."""

__version__ = "0.1.0"
