"""The bounds of rollouts that no other room shares."""

from typing import Final

ROLLOUTS_SHOWN_MAX: Final = 10
"""Rollouts in the status and on the page of an experiment: the newest, whether they have ended or not."""
