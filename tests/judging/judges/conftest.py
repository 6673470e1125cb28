"""A decision model for the tests of this folder."""

import pytest

from tests.support.sparrow import sparrow_server


@pytest.fixture(scope="module")
def sparrow():
    with sparrow_server() as url:
        yield url
