"""Confidence intervals. Loads no jax and imports no other package of parrot_jax.

wilson.py     a share of independent trials
bootstrap.py  sums divided by sums, over sessions whose questions belong together
"""
