"""Files and signals: decoding of images and recordings, spectra, vocoders, and synthetic voices.

May import: ``types``, ``storage``, ``registry``, and the other folders of ``processors``. Nothing here is registered. To add a file type,
extend the reader of its medium (``image_file``, ``audio_file``).
"""
