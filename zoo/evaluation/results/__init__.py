"""Results of evaluations: metrics, tables, plots, HTML pages, and verification cards.

To add a kind of result, add one file with a subclass of ``zoo.types.Result``.
"""
