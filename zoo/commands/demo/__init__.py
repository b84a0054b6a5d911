"""``zoo demo``: a page in the browser with one tab per use of models, built with Gradio, in one process.

May import every room below ``commands``. Gradio (extra ``demo``) is imported inside functions. To add a tab, write a file with a
function that adds it to the page, and a row in ``TABS`` of ``page``.
"""
