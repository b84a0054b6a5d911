"""Assembly of parts to systems: config to ``System`` to directory, and back.

``compose`` expands names and overrides to a config, ``build`` makes the parts, ``compatibility`` refuses pairs that do not fit,
``token_counts`` measures connectors, ``loading`` and ``save_load`` read and write weights, ``export`` calls the formats of ``interop``.

May import: ``types``, ``storage``, ``registry``, ``layers``, ``processors``, ``encoders``, ``language``, ``heads``, ``data``,
``interop``. Nothing is added here for a new part: parts are found by name.
"""
