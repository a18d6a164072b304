"""An OpenAI-compatible server: wire format, application, and the engines behind it.

protocol.py     parsing of requests
messages.py     parsing of their messages
replies.py      format of replies and errors
engine.py       Engine: the interface of reply generators; FunctionEngine: wraps a plain function
app.py          the web application around an engine
streams.py      replies as server-sent events
reply_text.py   incremental decoding of a reply
callers/        rejects requests from web pages of other sites
connections.py  timeouts and limits of connections
background.py   runs the application in a thread, on a port
batching.py     batches work, first come, first served
jax_engine.py   a trained model as an engine; the only file here that imports jax
vllm.py         vLLM instead of our server: finds it, builds its command
vllm_server.py  starts and stops vLLM
supervisor.py   a program that ends a child and all its processes, even if parrot is killed
following.py    the log of another program, such as vLLM: writes, shows and quotes it
"""
