"""The viewer: lists, searches and shows dialogues of any kind, also while they grow. No jax.

shown.py         a dialogue as it is shown
searching.py     from typed text to a search, and to the marked places
index_file.py    tables of an index, and its file
writing.py       writes an index
query.py         search, filters and order of the list
reading.py       reads an index
lines.py         JSON lines to an index
streams.py       other files to an index
files.py         what has changed in the files of a path
collected.py     collections to an index, from the journal
judgments.py     verdicts of judges
answers.py       answers of models
evaluated.py     evaluations to an index
trained.py       training configs to an index, with the live text
opening.py       what a path is
indexing.py      keeps indexes up to date
pages.py         the pages
serving.py       serves them
sample.py        a sample as one HTML file
"""
