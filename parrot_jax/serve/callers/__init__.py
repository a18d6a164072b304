"""Middleware that rejects requests from foreign web pages.

In its own folder, which is put on the path of vLLM's Python, where parrot_jax may be missing.
"""
