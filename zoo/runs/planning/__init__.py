"""Costs of a training step on any number of processes, computed without weights, data or a second process.

May import what ``zoo.runs`` may. To add a cost, compute it in one of these files and add a field to ``plan.Plan``.
"""
