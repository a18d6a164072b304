"""Client for OpenAI-compatible endpoints, with a journal of every request. Never imports jax.

endpoint_config.py  settings of endpoints and retries
prompts.py          prompts from Jinja2 templates
brackets.py         the [[number]] or [[letter]] of a judge's reply
endpoint.py         client of one endpoint
replies.py          parsing of responses
server_errors.py    classification of server errors
rate_headers.py     rate limits in response headers
redaction.py        removes the API key from responses
journal_file.py     the journal's file: tables, lock, versions
journal.py          writes requests and replies to the journal
journal_reader.py   reads replies, ends, counts and cost
journal_check.py    finds invalid rows of a journal
budget.py           hard limits in USD and tokens
throttle.py         concurrency, rate limits and cool-down
health.py           decides whether an endpoint works
caller.py           sends requests: journal, budget, throttle, retries
job_journal.py      opens a job's journal, new or to resume
jobs.py             many items at once, resumable
asking.py           a job that asks one model until enough replies are wanted
run_async.py        runs a coroutine from a plain function, also in a notebook
live.py             progress of a running job
notices.py          prints failures that are retried
moderation.py       OpenAI's /moderations
scripted_server.py  a test server that follows a script
faulty_server.py    a test server with the failures of real ones
"""
