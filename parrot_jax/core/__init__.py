"""Config loading, errors, files and logs, used by all packages. Loads no jax.

errors.py           user errors: one-line messages and exit codes
remote.py           paths in buckets
paths.py            local and bucket paths, and file patterns
published_names.py  removes folders from names that may be paths, before publication
shipped.py          the configs in the package
files.py            atomic writes, JSON, hashes
yaml_files.py       strict YAML of plain values
config.py           dataclasses from YAML; unknown keys are errors
config_help.py      `--help` of a config: its YAML with every key explained
arguments.py        parses CONFIG [--overrides]
logs.py             metrics as JSON lines, the console, progress bars
markdown.py         Markdown pages, and escaping of untrusted text
signals.py          SIGTERM and SIGHUP as Ctrl-C
memory.py           malloc settings that keep freed memory
open_files.py       the limit of open files and connections
xla_flags.py        XLA flags by platform
"""
