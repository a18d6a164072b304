"""The report card of an asker: how its questions compare with people's, in people's dialogues.

asker_config.py   settings of an endpoint that asks
reference.py      people's dialogues, and the places where a question is asked
asking.py         asks for a question at every place
texts.py          measures of one question in its dialogue
measures.py       measures of a dialogue's questions, with their definitions
lengths.py        ends of dialogues, and how long dialogues last
first_turns.py    diversity of first questions
naturalness.py    a classifier that tells questions from people's
roles.py          role drift: questions that read like answers
perplexity.py     perplexity of people's questions, by turn
card.py           the card: all estimates with intervals
tables.py         the card as tables
writing.py        the card as a page, on the console and as JSON
"""
