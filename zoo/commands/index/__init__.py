"""Search index on disk: embeddings of a folder of images, recordings or texts, written so that an interrupted job resumes.

``embedding`` makes the vectors, ``writer`` and ``store`` keep them, ``search_report`` shows results. The commands ``embed`` and
``search`` use it.
"""
