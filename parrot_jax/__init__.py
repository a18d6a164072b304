"""Train models that ask as people do, collect dialogues with them, train chat models on those."""

__version__ = "0.1.0"
