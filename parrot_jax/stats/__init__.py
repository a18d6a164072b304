"""What dialogue files are like, in numbers: the papers' Table 1 and Figure 3 for any file.

judge_config.py   settings of a judge
inputs.py         what a user typed as a path: file and format
context_marks.py  pronouns, and what is left out
diversity.py      repetition and richness of words
measures.py       what is measured of a session
measure_file.py   one file in numbers
sessions.py       which sessions are judged
judge_prompts.py  what a judge is asked, and how its replies are read
judging.py        asks it
run.py            all files, then the judge
published.py      Table 1 as the papers print it
summary.py        tables and JSON
console.py        on a terminal
writing.py        as files
"""
