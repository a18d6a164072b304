"""Who may ask a server.

A folder of its own: vLLM's Python, which may lack this package, imports the file beside this one.
"""
