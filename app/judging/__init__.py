"""Judging: judge versions, judging rules, sampling, the queue of judgements, and what they feed."""
