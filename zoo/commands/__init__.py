"""Implementations of the console commands, one module per command, called by ``zoo.commands.cli`` with the parsed arguments.

Shared modules: ``display`` (tables, progress bars), ``index`` and ``index_writer`` (the search index on disk), and a report module
each for ``classify`` and ``search`` (CSV, JSON, HTML). These modules may import all of ``zoo`` except ``zoo.commands.cli``.
"""
