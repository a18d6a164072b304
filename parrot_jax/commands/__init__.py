"""The commands of `parrot`, one file each, with `Config` and `run(config)`; imported on use."""
