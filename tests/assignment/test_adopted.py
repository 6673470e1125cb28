"""An older publication does not replace an own change that is not published yet."""

from hypothesis import given
from hypothesis import strategies as st

from app.assignment import adopted
from app.assignment.adopted import Adopted


@given(taken=st.integers(1, 9), published=st.lists(st.integers(1, 9), max_size=6))
def test_older_publications_are_ignored_until_the_same_or_a_newer_version(taken, published):
    own = Adopted()
    own.take("e", taken)
    reached = False
    for version in published:
        assert own.outdates("other", version, 0.0) is False
        assert own.outdates("e", version, 0.0) is (version < taken and not reached)
        reached = reached or version >= taken


def test_an_older_publication_that_stays_wins_after_a_while():
    own = Adopted()
    own.take("e", 5)
    assert own.outdates("e", 4, 100.0)
    assert own.outdates("e", 4, 99.0 + adopted.HOLD_S)
    assert not own.outdates("e", 4, 100.0 + adopted.HOLD_S)
