"""A simulated LLM product: variants of different true quality, and users who answer late or not at all.

Pure: chance comes from a passed generator, time from the caller.
"""

from typing import Final

import msgspec
from numpy.random import Generator

from app.cli.client import Source
from app.cli.limits import DEMO_REQUESTS
from app.experiments.model import Definition, Variant
from app.experiments.plan import AnalysisPlan
from app.experiments.policies import ThompsonPolicy
from app.experiments.reward import Reward

THUMBS_UP: Final = "thumbs_up"
THUMBS_DOWN: Final = "thumbs_down"
COPIED: Final = "copied"
REGENERATED: Final = "regenerated"

# What each signal says about an answer. A thumb comes after the others, so the last signal holds.
WORTH: Final = {THUMBS_UP: 1.0, COPIED: 0.8, REGENERATED: 0.2, THUMBS_DOWN: 0.0}

HORIZON_S: Final = 60.0
FLOOR: Final = 0.25
"""Exploration floor with which `DEMO_REQUESTS` declare the winner (`benchmarks/demo.py`)."""

REACTION_S: Final = 0.5  # mean time until an answer is copied or regenerated
THUMB_S: Final = 2.0  # mean further time until a thumb


class Prompt(msgspec.Struct, frozen=True):
    """A variant and how its answers truly fare: probabilities of what a user does with one."""

    key: str
    payload: dict[str, str]
    copied: float
    regenerated: float  # never copied as well
    thumb: float  # that a thumb is given at all
    up: float  # that a given thumb is up

    @property
    def mean_reward(self) -> float:
        """The true mean reward of answers that get any signal: what the experiment has to find out."""
        implicit = self.copied * WORTH[COPIED] + self.regenerated * WORTH[REGENERATED]
        thumb = self.up * WORTH[THUMBS_UP] + (1 - self.up) * WORTH[THUMBS_DOWN]
        answered = self.thumb + (1 - self.thumb) * (self.copied + self.regenerated)
        return (self.thumb * thumb + (1 - self.thumb) * implicit) / answered


class Reaction(msgspec.Struct, frozen=True):
    """A signal that a user gives `after_s` seconds after the answer was shown."""

    signal: str
    source: Source
    after_s: float


PROMPTS: Final = (
    Prompt(
        "concise",
        {"model": "m-large", "prompt": "Answer in three sentences."},
        copied=0.25,
        regenerated=0.15,
        thumb=0.45,
        up=0.55,
    ),
    Prompt(
        "step-by-step",
        {"model": "m-large", "prompt": "Think step by step, then answer."},
        copied=0.42,
        regenerated=0.08,
        thumb=0.45,
        up=0.8,
    ),
    Prompt(
        "chatty",
        {"model": "m-small", "prompt": "Answer like a friend would."},
        copied=0.20,
        regenerated=0.20,
        thumb=0.45,
        up=0.46,
    ),
)


def definition(key: str) -> Definition:
    """The experiment of the demo; its first prompt is the control."""
    return Definition(
        key=key,
        description="Simulated users rate three prompts (wald demo)",
        variants=tuple(
            Variant(key=prompt.key, control=index == 0, payload=prompt.payload)
            for index, prompt in enumerate(PROMPTS)
        ),
        reward=Reward(signals=dict(WORTH), combine="last", horizon_s=HORIZON_S),
        policy=ThompsonPolicy(exploration_floor=FLOOR),
        plan=AnalysisPlan(expected_units=DEMO_REQUESTS),
    )


def reactions(prompt: Prompt, rng: Generator) -> list[Reaction]:
    """What one user does with one answer, in order of time; empty when the user stays silent."""
    given = []
    after_s = rng.exponential(REACTION_S)
    implicit = rng.random()
    if implicit < prompt.copied:
        given.append(Reaction(COPIED, "implicit", after_s))
    elif implicit < prompt.copied + prompt.regenerated:
        given.append(Reaction(REGENERATED, "implicit", after_s))
    if rng.random() < prompt.thumb:
        after_s += rng.exponential(THUMB_S)
        up = rng.random() < prompt.up
        given.append(Reaction(THUMBS_UP if up else THUMBS_DOWN, "explicit", after_s))
    return given
