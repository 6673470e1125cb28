"""The kind `local`: models whose weights are in wheels."""

import socket
from importlib.metadata import PackageNotFoundError
from uuid import UUID

import pytest

from app.core.errors import InvalidInput
from app.judging.judges import local_models
from app.judging.judges.model import Judged, JudgedText, LocalVersion, Reason, version_hash
from app.judging.judges.service import usable
from tests.judging.judges.endpoints import opened

pytestmark = pytest.mark.anyio

QUESTION = "How do I reset the password of my account?"
ON_TOPIC = "Open the settings of your account and choose to reset your password."
OFF_TOPIC = "Bananas grow in clusters on tall tropical plants."
GERMAN = "Die Rechnung ist bezahlt. Die Lieferung kommt morgen, und die Daten sind auf dem Konto."


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection: a model that sends or downloads anything fails."""

    def refuse(*_, **__):
        raise AssertionError("a local judge opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def text(response, prompt=QUESTION):
    return JudgedText(response_key=UUID(int=1), response=response, prompt=prompt)


async def scores(model, *items):
    async with opened(LocalVersion(name="mine", model=model)) as judge:
        judged = await judge.score_many(items)
    return [each.score if isinstance(each, Judged) else each.reason for each in judged]


async def test_relevance_is_high_on_topic_and_low_off_topic(offline):
    on_topic, off_topic = await scores("relevance", text(ON_TOPIC), text(OFF_TOPIC))
    assert on_topic > 0.5 > off_topic >= 0


async def test_relevance_without_a_prompt_or_words_is_unscored(offline):
    assert await scores("relevance", text(ON_TOPIC, None), text(""), text(ON_TOPIC, "")) == [
        Reason.PROMPT_MISSING,
        Reason.TOO_SHORT,
        Reason.TOO_SHORT,
    ]


async def test_sentiment_is_read_from_the_words_and_never_made_up(offline):
    happy, angry, neutral, german = await scores(
        "sentiment",
        text("Great question! I am happy to help, this is wonderful."),
        text("This is terrible, awful and useless. I hate it."),
        text("The parcel is on the table."),
        text(GERMAN),
    )
    assert happy > 0.8
    assert angry < 0.2
    assert neutral is Reason.UNDECIDED
    assert german is Reason.UNDECIDED  # `die` is a negative word of the English lexicon


async def test_profanity_finds_an_insult_in_a_long_text(offline):
    clean, insult, hidden = await scores(
        "profanity",
        text(ON_TOPIC * 20),
        text("You are a stupid fucking idiot."),
        text(ON_TOPIC * 20 + " You are a stupid fucking idiot. " + ON_TOPIC * 20),
    )
    assert clean > 0.8
    assert insult < 0.1
    assert hidden < 0.3


@pytest.mark.parametrize("model", ["relevance", "sentiment", "profanity"])
async def test_odd_texts_are_scored_or_have_a_reason(model, offline):
    texts = ["", " ", "\0", "\ud800", "a" * 100_000, "🙂" * 500, "ok"]
    for judged in await scores(model, *(text(odd, odd) for odd in texts)):
        assert isinstance(judged, Reason) or 0 <= judged <= 1


@pytest.mark.parametrize("model", ["relevance", "sentiment", "profanity"])
async def test_a_batch_gives_the_scores_of_single_texts(model, offline):
    items = [text(ON_TOPIC), text("I love it! " * 50), text("Bad. " * 200), text("x")] * 20
    together = await scores(model, *items)
    alone = [(await scores(model, item))[0] for item in items[:4]]
    for value, expected in zip(together, alone * 20, strict=True):
        assert value == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)
    assert await scores(model) == []


async def test_a_version_names_the_installed_release():
    version = usable(LocalVersion(name="mine", model="relevance"))
    assert version.release.startswith("wordllama 0.4")
    assert usable(version) == version
    other = LocalVersion(name="mine", model="relevance", release="wordllama 0.3")
    assert version_hash(other) != version_hash(version)
    with pytest.raises(InvalidInput, match="create a new version"):
        usable(other)


async def test_a_missing_extra_is_refused_at_creation(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(local_models, "version", missing)
    with pytest.raises(InvalidInput, match=r"install wald\[judges-local\]"):
        usable(LocalVersion(name="mine", model="relevance"))
