"""The state of an item under any order of claims, answers, releases and ends of leases."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.core.errors import Conflict
from app.reviews.item import Item
from app.reviews.model import ItemState

REVIEWERS = st.sampled_from([f"key:{number}" for number in range(6)])


class ItemMachine(RuleBasedStateMachine):
    """Every reviewer does anything at any time; answers are counted beside the item."""

    def __init__(self) -> None:
        super().__init__()
        self.item = Item(wanted=2)
        self.answers: dict[str, bool] = {}

    @rule(reviewer=REVIEWERS)
    def claim(self, reviewer: str) -> None:
        free = self.item.taken < self.item.wanted and self.item.state is ItemState.OPEN
        try:
            self.item = self.item.claimed(reviewer)
        except Conflict:
            assert not free or reviewer in self.answers or reviewer in self.item.leased
        else:
            assert free
            assert reviewer not in self.answers

    @rule(reviewer=REVIEWERS)
    def label(self, reviewer: str) -> None:
        mine = reviewer in self.item.leased or self.answers.get(reviewer, False)
        free = self.item.taken < self.item.wanted
        try:
            self.item = self.item.labelled_by(reviewer)
        except Conflict:
            assert not mine
            assert not free
        else:
            assert mine or free
            self.answers[reviewer] = True

    @rule(reviewer=REVIEWERS)
    def skip(self, reviewer: str) -> None:
        self.item = self.item.skipped_by(reviewer)
        self.answers[reviewer] = False

    @rule(reviewer=REVIEWERS)
    def release_or_end(self, reviewer: str) -> None:
        before = self.item
        self.item = before.released_by(reviewer)
        assert (self.item.labelled, self.item.skipped) == (before.labelled, before.skipped)

    @precondition(lambda self: self.item.state is not ItemState.OPEN)
    @rule(reviewer=REVIEWERS)
    def closed_items_are_not_claimed(self, reviewer: str) -> None:
        assert not self.item.claimable_by(reviewer)

    @invariant()
    def no_place_is_taken_twice(self) -> None:
        item = self.item
        assert item.taken <= item.wanted
        assert not item.labelled & item.skipped
        assert not item.labelled & item.leased
        assert not item.skipped & item.leased

    @invariant()
    def the_answers_are_those_given(self) -> None:
        assert self.item.labelled == {reviewer for reviewer, label in self.answers.items() if label}
        assert self.item.skipped == {reviewer for reviewer, label in self.answers.items() if not label}
        assert (self.item.state is ItemState.DONE) == (len(self.item.labelled) == self.item.wanted)


TestItem = ItemMachine.TestCase
TestItem.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
