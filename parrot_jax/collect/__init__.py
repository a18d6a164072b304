"""The collection loop: dialogues between an asker and an answerer, recorded in a journal.

collect_config.py   settings
beginnings.py       what the dialogues begin with
prompts.py          the prompts of the speakers
prices.py           what they cost
stops.py            which texts end a dialogue
dialogue_state.py   one dialogue as a state machine
transcript.py       a dialogue that one model wrote in one reply
folder.py           who may write, and the dialogues of the journal
run.py              a collection, run as a job
forecast.py         calls, tokens, money, hours, disk
status.py           how a collection stands
export.py           a file of dialogues and a summary
filters.py          what an export leaves out
moderation.py       asks a moderator about what was said
publish.py          from a collection to a dataset
dataset_summary.py  a dataset in numbers
dataset.py          the dataset folder, in three forms
card.py             its README
upload.py           to the hub
"""
