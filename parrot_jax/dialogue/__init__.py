"""Dialogues as text: types, readers, cleaning, deduplication, decontamination. No jax.

types.py          Dialogue and Turn
sources.py        paths, limits and weights of sources; one stream of dialogues
unpack.py         files as byte streams, decompressed
raw_rows.py       a row of a file, or why it is rejected
json_list.py      elements of one big JSON list
json_stream.py    rows of JSON files, with line numbers
parquet.py        rows of Parquet files
hub.py            rows from the Hugging Face hub
keys.py           the meaning of the keys of rows and messages
unread.py         rejects rows with unread parts of the dialogue
readers.py        one parser per format
messages.py       lists of messages to turns
pairs.py          rows of questions and answers
oasst.py          message trees
preference.py     preference pairs
turns.py          turns to a Dialogue: repairs, system text
reasoning.py      separates reasoning from the answer
read.py           the dialogues of a file, in one call
report.py         counts: rows, rejected rows, repairs
writers.py        writes dialogues
clean.py          chains cleaning steps
markdown.py       HTML to Markdown
splitting.py      splits long dialogues
prose.py          text without code, formulas and links
language.py       language detection
words.py          words for comparing texts
phrases.py        thanks, refusals, ...: regular expressions
repeats.py        similarity to earlier questions
dedup.py          exact and near duplicates
contamination.py  benchmark questions in training data
sensitive.py      personal data: addresses, numbers, keys
draw.py           nested random samples
"""
