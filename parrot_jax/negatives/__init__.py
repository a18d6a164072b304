"""Makes negatives for CaPO: answers that miss their context. Loads no jax.

select_config.py    settings of selecting questions
negatives_config.py settings of making negatives
questions.py        questions with their dialogue and answer, in a seeded order
rules.py            rules for questions that depend on their dialogue
selection.py        the file of selected questions
selecting.py        selects by rules, a judge or measurement
strategies.py       the requests for each kind of negative
drops.py            why a negative is dropped
building.py         makes the negatives, and writes pairs
"""
