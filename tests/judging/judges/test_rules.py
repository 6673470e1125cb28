"""Rules that need no model."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.judging.judges.model import Judged, JudgedText, Reason, RuleVersion, Unscored
from app.judging.judges.rule_checks import judge_by_rule
from app.judging.judges.rule_judge import RuleJudge
from app.judging.judges.rules import (
    Length,
    NoPersonalData,
    NoRefusal,
    NoRepetition,
    NotEmpty,
    SpokenLanguage,
    ValidJson,
)

ALL = [
    NotEmpty(),
    NoRefusal(),
    Length(characters_min=1),
    ValidJson(),
    NoRepetition(),
    SpokenLanguage(),
    NoPersonalData(),
]
ENGLISH = "You can reset the password of your account on the page called settings."
GERMAN = "Sie können das Passwort Ihres Kontos auf der Seite Einstellungen zurücksetzen."


def text(response, prompt=None):
    return JudgedText(response_key=UUID(int=1), response=response, prompt=prompt)


def score(rule, response, prompt=None):
    judged = judge_by_rule(rule, text(response, prompt))
    return judged.score if isinstance(judged, Judged) else judged.reason


@pytest.mark.parametrize("response", ["", " \n\t", "\u200b\ufeff", "\u00a0\u2003"])
def test_a_response_without_a_visible_character_is_empty(response):
    assert score(NotEmpty(), response) == 0
    assert score(NotEmpty(), response + "0") == 1


@pytest.mark.parametrize(
    "response",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t assist with that request.",
        "Sorry, but I cannot provide medical advice.",
        "As an AI language model, I cannot browse the internet.",
        "I am unable to answer this question.",
        "I must respectfully decline.",
        "Unfortunately, I won't be able to help with this.",
        "Es tut mir leid, aber dabei kann ich Ihnen leider nicht helfen.",
        "Je ne peux pas vous aider avec cette demande.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Desculpe, mas não posso ajudar com isso.",
        "Mi dispiace, ma non posso aiutarti con questo.",
        "Sorry, daar kan ik je niet mee helpen. Ik kan je daarbij niet helpen.",
    ],
)
def test_a_refusal_at_the_beginning_fails(response):
    assert score(NoRefusal(), response) == 0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "Sorry for the delay! Your parcel arrives today.",
        "I can't believe how well this turned out.",
        "I can help you with that.",
        "You cannot reset it yourself; ask your administrator.",
        ENGLISH,
        GERMAN,
        "Ich kann Ihnen helfen.",
        ENGLISH * 10 + " I can't help with the rest.",
    ],
)
def test_an_answer_is_not_a_refusal(response):
    assert score(NoRefusal(), response) == 1


def test_length_counts_characters_without_the_space_around_them():
    rule = Length(characters_min=2, characters_max=3)
    scores = [score(rule, response) for response in (" a ", "ab", "äöü\n", "abcd", "")]
    assert scores == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"a": 1}', 1),
        (" [1, 2]\n", 1),
        ('"text"', 1),
        ('{"a": 1', 0),
        ('{"a": NaN}', 0),
        ('{"a": 1} done', 0),
        ("", 0),
        ("[" * 100_000, 0),
        ('"\ud800"', 0),
    ],
)
def test_json_is_one_whole_value(response, expected):
    assert score(ValidJson(), response) == expected


def test_a_fence_around_json_counts_only_if_the_rule_admits_it():
    fenced = '```json\n{"a": 1}\n```'
    assert score(ValidJson(), fenced) == 0
    assert score(ValidJson(fence=True), fenced) == 1
    assert score(ValidJson(fence=True), '{"a": 1}') == 1


def test_a_response_in_a_loop_is_repetition():
    assert score(NoRepetition(), "and then we go on " * 50) == 0
    assert score(NoRepetition(), "それは本当です。" * 50) == 0
    words = " ".join(f"word{number}" for number in range(300))
    assert score(NoRepetition(), words) == 1
    assert score(NoRepetition(), "no no no no") == 1  # too short to be a loop


def test_language_is_that_of_the_prompt_or_of_the_list():
    assert score(SpokenLanguage(), ENGLISH, ENGLISH) == 1
    assert score(SpokenLanguage(), GERMAN, ENGLISH) == 0
    assert score(SpokenLanguage(languages=("de", "fr")), GERMAN) == 1
    assert score(SpokenLanguage(languages=("de", "fr")), ENGLISH) == 0
    assert score(SpokenLanguage(languages=("en",)), f"{ENGLISH}\n```\nfür = wählen(größe)\n```") == 1


def test_a_language_that_cannot_be_known_is_unscored_and_never_a_number():
    assert score(SpokenLanguage(languages=("en",)), "ok") == Reason.TOO_SHORT
    assert score(SpokenLanguage(), ENGLISH) == Reason.PROMPT_MISSING
    assert score(SpokenLanguage(), ENGLISH, "Password?") == Reason.TOO_SHORT
    sure = SpokenLanguage(languages=("en",), confidence_min=1.0)
    assert score(sure, "Das Passwort ist sehr strong, der password reset works") == Reason.UNDECIDED


def test_personal_data_fails_by_its_kind():
    card = "Your card 4111 1111 1111 1111 is charged."
    assert score(NoPersonalData(), card) == 0
    assert score(NoPersonalData(kinds=("email",)), card) == 1
    assert score(NoPersonalData(), ENGLISH) == 1


@given(st.sampled_from(ALL), st.text(max_size=200), st.none() | st.text(max_size=200))
def test_every_rule_gives_every_text_a_verdict_or_a_reason(rule, response, prompt):
    judged = judge_by_rule(rule, text(response, prompt))
    assert isinstance(judged, Unscored) or judged.score in {0, 1}


@pytest.mark.anyio
async def test_a_rule_judge_scores_a_batch_in_order():
    judge = RuleJudge(RuleVersion(name="empty", check=NotEmpty()))
    judgements = await judge.score_many([text("a"), text(""), text("b")])
    assert [judgement.score for judgement in judgements] == [1, 0, 1]
    assert await judge.score_many([]) == []
    assert (await judge.score(text(""))).label == 0
    await judge.aclose()
