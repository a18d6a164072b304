"""The collection loop: dialogues between an asker and an answerer, recorded in a journal.

collect_config.py   settings
beginnings.py       reads and samples the beginnings
prompts.py          the prompts of the speakers
prices.py           the prices of the speakers
stops.py            stop rules: which question or answer ends a dialogue
dialogue_state.py   a dialogue as a state machine
transcript.py       parses a dialogue written by one model
folder.py           resuming, and reading dialogues from the journal
run.py              runs a collection as a job
forecast.py         calls, tokens, cost, hours, disk
status.py           the state of a collection
export.py           dialogues.jsonl and summary.json
filters.py          filters of an export
moderation.py       moderation of all texts
publish.py          exports a collection as a dataset
dataset_summary.py  counts and origin of a dataset
dataset.py          writes the dataset folder
card.py             the dataset card
upload.py           the files to upload to the hub
"""
