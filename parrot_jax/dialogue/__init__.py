"""Dialogues without tokens: types, readers, cleaning, duplicates, benchmarks. Loads no jax.

types.py          Dialogue and Turn
sources.py        which files to read, and one stream out of all of them
unpack.py         files as bytes, unpacked
raw_rows.py       a row of a file, or why it cannot be used
json_list.py      where the elements of one big JSON list are
json_stream.py    rows of JSON files, each with its line
parquet.py        rows of Parquet files
hub.py            rows from the Hugging Face hub
keys.py           what the keys of rows and messages mean: one table
unread.py         what a row holds besides the turns that were read
read.py           the dialogues of a file, in one call
read.py          the dialogues of a file, in one call
readers.py        one parser for each format
messages.py       lists of messages to turns
pairs.py          rows of questions and answers
oasst.py          message trees
turns.py          turns to a Dialogue: repairs, the system text
reasoning.py      reasoning told apart from the reply
read.py           dialogues of a file, in one call
report.py         what reading met: rows, broken, repaired
writers.py        dialogues out
clean.py          how cleaning steps are chained
markdown.py       HTML to Markdown
splitting.py      long dialogues into several
prose.py          the text without code, formulas and links
language.py       which language
words.py          texts as words, to compare them
phrases.py        thanks, refusals, ...: regular expressions
repeats.py        questions that were asked before
dedup.py          duplicate dialogues
contamination.py  benchmark questions in training data
sensitive.py      addresses, numbers and keys of persons
draw.py           samples that contain smaller ones
"""
