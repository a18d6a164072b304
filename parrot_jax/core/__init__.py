"""Config loading, errors, files and logs: what every room stands on. Loads no jax.

errors.py           what a user can fix, and how it becomes one line and an exit code
remote.py           paths in buckets
paths.py            paths on a disk or in a bucket, and patterns of files
published_names.py  what may be published of a name that may be a path
shipped.py          the configs that the package ships
files.py            atomic writes, JSON, hashes
yaml_files.py       YAML of plain values
config.py           dataclasses from YAML, strictly
config_help.py      the help of a config: its YAML with every key explained
arguments.py        CONFIG [--overrides]
logs.py             metrics as JSON lines, the console, progress bars
markdown.py         pages of Markdown, and text from outside in them
signals.py          what ends a program from outside
memory.py           what the process does with memory that it has freed
open_files.py       how many files and connections may be open
xla_flags.py        XLA's flags for each platform
"""
