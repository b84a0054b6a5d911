"""Shared code of the preference objectives (DPO, IPO, KTO): log-probabilities of answers, and the base class of pair losses."""
