"""Jobs over many items, done in parts by several processes: ``shares`` and ``parts`` are the core, ``launchers`` start processes.

A job is a list of items, cut into parts of equal length. Each part is written whole, and its file is the mark that it is done. A worker
is the same command line with ``--shard I/N``; it does the missing parts whose number modulo N is I. The command without ``--shard`` joins
the parts. ``launchers`` and ``supervise`` start workers and replace those that die; no engine knows items or parts. A new launcher is a
class with ``start`` in ``launchers``, and a line in ``LAUNCHERS``.
"""
