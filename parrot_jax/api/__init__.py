"""Client for OpenAI-compatible endpoints, with a journal of every request. Never imports jax.

endpoint_config.py  settings of endpoints and of retries
prompts.py          prompts from Jinja2 files
endpoint.py         a request in, whatever came back out
replies.py          what came back, and what it is worth
server_errors.py    what an error of a server means
rate_headers.py     rate limits in the headers of a reply
redaction.py        takes a key out of what a server sends
journal_file.py     the file of a journal: tables, lock
journal.py          every request and reply, written first
journal_reader.py   what was said, how it ended, what it cost
journal_check.py    rows that cannot be true
budget.py           hard limits of money and tokens
throttle.py         when a request may be sent
health.py           does an endpoint take what it is sent?
caller.py           requests journaled, retried, journaled
jobs.py             many items at once, bounded, resumable
live.py             what a running job shows
notices.py          what is wrong with an endpoint
moderation.py       texts to categories
scripted_server.py  a server for tests that follows a script
faulty_server.py    a server for tests that fails as real ones do
"""
