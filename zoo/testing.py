"""Checks of parts, for their authors."""
