"""The HTTP edge: the only place, with ``app``, that knows FastAPI and Starlette."""
