"""`parrot convert flax-to-hf` as a program of its own; `--help` says what it takes."""

import sys

from parrot_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "flax-to-hf", *sys.argv[1:]]))
