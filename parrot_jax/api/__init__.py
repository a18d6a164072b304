"""Talking to OpenAI-compatible endpoints, with a journal of every request. Loads no jax."""
