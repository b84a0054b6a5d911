"""Sharded training: weights, gradients and optimizer state divided over the processes by torch's ``fully_shard``.

``blocks`` finds the blocks of a model, and checkpoints and compiles them. ``sharded`` divides a model and gathers it again, ``saving``
keeps the divided state with torch's distributed checkpoint.
"""
