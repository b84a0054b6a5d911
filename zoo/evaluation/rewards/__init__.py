"""Reward functions: scores of generated answers, for sampling objectives (GRPO, PPO) and best-of-n (``zoo answer``)."""
