"""How far a figure may be from the true one. Loads no jax and knows no other room.

wilson.py     a share of independent trials
bootstrap.py  sums divided by sums, over sessions whose questions belong together
"""
