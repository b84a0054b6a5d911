"""Metrics and shared steps of evaluations: word error rate, VQA accuracy, few-shot prompts, features, and readers of a split.

To add a metric, add one file with a pure function of answers and references. Nothing here is registered.
"""
