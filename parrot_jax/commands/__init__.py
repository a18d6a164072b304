"""The commands of `parrot`, one module each with `Config` and `run(config)`; imported lazily."""
