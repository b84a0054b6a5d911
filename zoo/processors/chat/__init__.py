"""Conversations as text for a language model: messages, chat templates, boxes of Kosmos-2, and the tokens of a conversation.

To add a chat template, add a class in ``templates.py`` and its entry in the table of templates there. A template of a tokenizer (Jinja)
needs no code.
"""
