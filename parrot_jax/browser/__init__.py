"""The local web server behind `parrot annotate` and `parrot view`. Loads no jax.

sign_in.py  lets a browser in by a one-time link
pages.py    templates, static files, security headers, bounded request bodies
serving.py  serves an application on loopback until Ctrl-C
"""
