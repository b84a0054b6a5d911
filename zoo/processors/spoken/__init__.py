"""Rules that write numbers, money, dates, units, abbreviations and symbols as English words; one file per kind.

``zoo.processors.media.read_aloud`` applies them in order. A rule is a pattern and a function from its match to words.
"""
