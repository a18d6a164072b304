"""Confidence intervals. Loads no jax and imports no other package of parrot_jax.

wilson.py     shares of independent trials (Wilson score)
bootstrap.py  ratios of sums over sessions (cluster bootstrap)
crossed.py    means of judgments by several people (clusters crossed with raters)
"""
