"""The command line: ``cli`` parses the arguments, and one module per command does the work.

Shared modules: ``display`` (tables, progress bars), ``index/`` (the search index on disk), and a report module each for ``classify`` and
``search`` (CSV, JSON, HTML). ``workers`` is the flow of commands that share their items among processes, ``remote_options`` copies
remote inputs and uploads remote outputs.

May import: all rooms below; only ``zoo/__main__.py`` imports ``cli``. To add a command, add one file, a parser and a function in
``cli.py``, and ``scripts/NAME.py`` with the same arguments.
"""
