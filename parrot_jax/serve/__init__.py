"""An OpenAI-compatible server: the wire format, the application, and who speaks behind it.

protocol.py     what requests may say
messages.py     the messages in them
replies.py      what replies and errors look like
engine.py       Speaker: whatever answers requests; FunctionSpeaker: a plain function that does
app.py          the web application around a speaker
streams.py      a reply that is sent while it is made
reply_text.py   the text of a reply while its ids arrive
callers/        who may ask: no web page of another site
connections.py  the time that each connection has
background.py   the application in a thread of this process, on a port
batching.py     work joined into batches, first come, first served
jax_engine.py   a trained model as a speaker; the only file here that loads jax
vllm.py         vLLM instead of all that: where it is, and its command
vllm_server.py  its start, its end
supervisor.py   a program that ends another one and all it started, whoever is killed
following.py    the log of such a program: kept, shown, quoted
"""
