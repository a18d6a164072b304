"""Dataset statistics: the papers' Table 1 and Figure 3, and more, for any dialogue files.

judge_config.py   settings of a judge
inputs.py         paths to sources, with format and label
context_marks.py  pronouns and ellipsis
diversity.py      Self-ROUGE and MTLD
measures.py       measures of a session
measure_file.py   measures of a file
sessions.py       samples sessions for the judge
judge_prompts.py  the judge's prompts, and parsing of its replies
judging.py        runs the judge
run.py            measures all files, then runs the judge
published.py      Table 1 of the papers
summary.py        tables and JSON
console.py        prints statistics
writing.py        writes statistics to files
"""
