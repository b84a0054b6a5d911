"""``zoo serve``: an HTTP server of models with the routes of OpenAI's API, in one process.

May import every room below ``commands``. FastAPI, uvicorn and prometheus-client (extra ``serve``) are imported inside functions. To add a
route, add its request to ``schemas``, a handler that returns a ``Reply``, and a row to ``ROUTES`` in ``app``.
"""
