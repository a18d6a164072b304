"""Measures multi-turn chat: answers, judgments, scores with intervals. Loads no jax.

rows.py      rows of JSON files; rejected ones are counted and reported
fastchat.py  judgments in FastChat's files
rescore.py   parses the judgments of such files again
winrate.py   AlpacaEval's win rate from annotations
console.py   prints both on the console
"""
