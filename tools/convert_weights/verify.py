"""Runs `parrot convert verify` as a script; see `--help`."""

import sys

from parrot_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "verify", *sys.argv[1:]]))
