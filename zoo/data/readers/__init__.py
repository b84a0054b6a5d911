"""Readers of files: tar shards, tables, HTML pages, text documents, interleaved documents, and speech data sets.

To add a reader, add one file that returns rows in a fixed order and reports each faulty row with file and position instead of failing.
Sources call readers; nothing here is registered.
"""
