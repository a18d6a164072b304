"""One verb of `parrot` a file: a `Config` dataclass and `run(config)`; imported only when chosen."""
