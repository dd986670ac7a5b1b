"""Runs the application in uvicorn: connections, TLS, limits, worker processes and a clean shutdown.

`serve.py` starts everything; `Server` in `drain.py` ends streams before uvicorn waits for them;
`HttpConnection` in `http1.py` is one connection; `Rejection` answers requests that never reach the
application; `Workers` runs several processes.

Easy to get wrong: streams do not end by themselves. Code that waits for open responses must run
after the drain.
"""
