"""Shared code of the objectives on sampled answers (GRPO, PPO): rewards, log-probabilities of tokens, and their settings."""
