"""Whole jobs: train, evaluate, check, and the steps that set them up from a config.

``train`` and ``evaluate`` read a config, build model, data and objective with the other files of this room, and call the loop or the
evaluations. ``jobs/`` shares the items of a command among several processes.

May import: all rooms below (every room except ``downloads``, ``commands`` and ``testing``). To add a job, add one file here and a command
in ``zoo.commands``.
"""
