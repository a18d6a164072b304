"""Reads run folders, also while they are written: a table of them, and reports.

training_files.py   reads the files of a training run
finding.py          the runs in a folder and their state
training_page.py    the report of training runs: curves, samples, data, checkpoints
collection_page.py  the report of collections: stops, cost, lengths, examples
writing.py          writes the report of some runs
"""
