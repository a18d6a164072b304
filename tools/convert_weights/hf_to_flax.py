"""Runs `parrot convert hf-to-flax` as a script; see `--help`."""

import sys

from parrot_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "hf-to-flax", *sys.argv[1:]]))
