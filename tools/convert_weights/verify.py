"""`parrot convert verify` as a program of its own; `--help` says what it takes."""

import sys

from parrot_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "verify", *sys.argv[1:]]))
