"""Client for OpenAI-compatible endpoints, with a journal of every request. Never imports jax."""
