"""Runs `parrot convert flax-to-hf` as a script; see `--help`."""

import sys

from parrot_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "flax-to-hf", *sys.argv[1:]]))
