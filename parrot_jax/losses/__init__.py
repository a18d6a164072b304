"""Losses as sums and weights; only the train step divides. Imports no model and no files.

token_loss.py  log-probabilities of target tokens, without a [tokens, vocabulary] array
preference.py  losses of preference pairs, from log-probabilities
"""
