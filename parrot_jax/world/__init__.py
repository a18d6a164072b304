"""The synthetic world, with known true answers: facts, people, answerer, exam, quickstart.

facts.py          places, attributes and values
questions.py      generates and parses questions; true answers
people.py         simulated users
answerer.py       answers questions, with a given error rate
mistakes.py       context errors: makes them, finds them in answers
capo.py           makes pairs for CaPO, counts the errors of an exam
world_engine.py   the answerer as a server's engine
world_files.py    writes the world in the formats of real data
exam_measures.py  measures of an asker's questions and an answerer's answers
exam.py           runs and marks an exam of eight-question dialogues
recipes.py        training configs of the small models
progress.py       finished stages and their times
example.py        a small world, and a config that trains on it in seconds
quickstart.py     the whole loop in one command
summary.py        its results
report_files.py   reads the files for the report
pictures.py       charts of the report
report.py         the report page
"""
