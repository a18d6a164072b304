"""Config loading, errors, files and logs: what every room stands on. Loads no jax."""
