"""One verb of `parrot` a file: a `Config` and `run(config)`; imported only when chosen."""
