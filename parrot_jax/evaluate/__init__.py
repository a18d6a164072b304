"""Measures multi-turn chat: answers, judgments, scores with intervals. Loads no jax.

answer_config.py  settings of answering a benchmark
judge_config.py   settings of judging
build_config.py   settings of building a longer benchmark
rows.py           rows of JSON files; rejected ones are counted and reported
published.py      where benchmarks are published, and their licences
downloads.py      downloads them, when the user says so
benchmark.py      questions and references, from files of all common forms
sheets.py         answers of a model, and FastChat's files of them
answering.py      runs a benchmark
built.py          built benchmarks: who wrote and accepted each question
question_filters.py why a proposed question is dropped
extending.py      one dialogue that an asker continues, as a coroutine
building.py       builds a benchmark
decisions.py      what a decision on a question does to a built benchmark
reviewing.py      people accept, edit or reject its questions in a terminal
conversations.py  what is judged: answers to a benchmark, or dialogues
judge_prompts.py  prompts in FastChat's form, for any number of turns
verdicts.py       grades and comparisons in a judge's text
judge_tasks.py    requests to the judge, and how its replies are read
judging.py        runs a judge
exact.py          grades by comparing with the references, without a judge
scores.py         scores by model, history, question and turn; means with intervals
comparing.py      paired differences
summary.py        the report as tables and JSON
writing.py        the report as files
inspect_logs.py   the judgments as logs of Inspect
fastchat.py       judgments in FastChat's files
rescore.py        parses the judgments of such files again
winrate.py        AlpacaEval's win rate from annotations
length_control.py AlpacaEval's length-controlled win rate, by its own package
console.py        prints all results
"""
