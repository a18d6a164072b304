"""Middleware that rejects requests from foreign web pages.

A separate folder, because vLLM's Python, which may lack this package, imports the file in it.
"""
