"""People judge questions and answers in a browser, and what they said is reported. Loads no jax.

tasks.py          what people are asked, and the keys of their verdicts
items.py          what is judged, blind and shuffled by a seed
questions.py      draws questions from dialogues
answers.py        draws answers of models, one to grade or two to compare
verdict_file.py   the SQLite file of items and verdicts
desk.py           what an annotator sees next, and what a verdict or an undo does
review_desk.py    the same for the questions of a benchmark that is being built
pages.py          the pages and the requests of their script
serving.py        runs an annotation
estimates.py      rates by source and their differences, with intervals
judgments.py      a judge's verdicts on the same items
agreement.py      agreement of annotators with each other and with a judge
results.py        all figures of a file, as JSON
tables.py         the figures as tables and as a page
"""
