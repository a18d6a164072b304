"""A seeded little world with ground truth: its facts, its people, its answerer, the quickstart.

facts.py          places, what can be asked of them, and the values
questions.py      what can be asked, what it means in its context, the true answer
people.py         those who ask
answerer.py       the one who answers, with as many errors as it is told to make
world_engine.py   the answerer behind a server
world_files.py    the world as files of real formats
exam_measures.py  how like people an asker asks, how well an answerer answers
exam.py           dialogues answered by a model, right or wrong
recipes.py        how the small models are trained
progress.py       which stages are done, and how long they took
example.py  a small world and a config that trains on it in seconds
quickstart.py     the whole loop in one command
summary.py        its figures
report_files.py   what its page needs, read and counted
pictures.py       the pictures of its page
report.py         its page
"""
