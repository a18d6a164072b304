"""Measures multi-turn chat: answers, judgments, scores with intervals. Loads no jax.

answer_config.py  settings of answering a benchmark
rows.py      rows of JSON files; rejected ones are counted and reported
benchmark.py questions and references, from files of all common forms
sheets.py    answers of a model, and FastChat's files of them
answering.py runs a benchmark
fastchat.py  judgments in FastChat's files
rescore.py   parses the judgments of such files again
winrate.py   AlpacaEval's win rate from annotations
console.py   prints both on the console
"""
