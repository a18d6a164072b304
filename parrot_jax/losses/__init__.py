"""Losses as sums and weights: only the train step divides. Knows no model and no files.

token_loss.py  log-probabilities of given tokens, with no [tokens, vocabulary] array standing
"""
