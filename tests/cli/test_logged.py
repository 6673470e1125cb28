import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.files.logged import Columns, LoggedRewards, Task, read, variant_keys
from app.cli.files.records import UnreadableLog
from app.core.limits import KEY_PATTERN, VARIANTS_MAX

COLUMNS = Columns(variant="model", reward="score", task="task")


def log(folder: Path, text: str, columns: Columns = COLUMNS, **options) -> LoggedRewards:
    path = folder / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return read(path, columns, **options)


def test_a_task_is_kept_when_every_variant_has_a_reward_on_it(tmp_path):
    table = log(
        tmp_path,
        "task,model,score\na,x,1\na,y,3\nb,x,5\nc,y,\nc,x,2\nd,y,5\nd,x,4\n",
        scale=(1, 5),
    )
    assert table == LoggedRewards(("x", "y"), (Task("a", (1, 3)), Task("d", (4, 5))), 2, 1, 5)
    assert table.means == (0.375, 0.75)


def test_where_chooses_rows(tmp_path):
    columns = Columns(variant="model", reward="score", task="task", where=(("judge", "j"),))
    table = log(tmp_path, "task,model,judge,score\na,x,j,1\na,x,k,9\na,y,j,0\n", columns)
    assert table.tasks == (Task("a", (1, 0)),)


def test_without_a_task_column_the_nth_rows_make_a_task(tmp_path):
    columns = Columns(variant="model", reward="score")
    table = log(tmp_path, "model,score\nx,1\nx,0\ny,0\nx,1\ny,1\n", columns)
    assert [task.rewards for task in table.tasks] == [(1, 0), (0, 1)]
    assert table.incomplete == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("task,model,score\n", "line 1: a header without rows"),
        ("task,score\n", "line 1: no column 'model'; there are task, score"),
        ("task,model,score\na,x,good\n", "line 2, column 'score': 'good' is not a number"),
        ("task,model,score\na,x,1\na,y,1.5\n", "line 3, column 'score': 1.5 is off the scale 0:1"),
        ("task,model,score\na,x,nan\n", "line 2, column 'score': 'nan' is not finite"),
        ("task,model,score\na,x,1\na,x,1\n", "line 3: 'x' already has a reward on task 'a', in line 2"),
        ("task,model,score\na,x\n", "line 2: has 2 cells, the header has 3"),
        ("task,model,score\n,x,1\n", "line 2, column 'task': must be 1 to"),
        ('task,model,score\na,"x,1\n', "line 2: unexpected end of data"),
        ("task,model,score\na,x,1\n", "must hold 2 to 50 variants, found 1"),
        ("task,model,score\na,x,1\nb,y,1\n", "no task has a reward for each of x, y"),
    ],
)
def test_an_unreadable_log_says_where(tmp_path, text, message):
    with pytest.raises(UnreadableLog) as caught:
        log(tmp_path, text)
    assert str(caught.value).startswith(message)


def test_a_log_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_bytes(b"task,model,score\n\xff\xfe,x,1\n")
    with pytest.raises(UnreadableLog, match="not UTF-8"):
        read(tmp_path / "scores.csv", COLUMNS)


@given(st.lists(st.text(), unique=True, max_size=VARIANTS_MAX))
def test_variant_keys_are_distinct_keys_of_the_api(names):
    keys = variant_keys(names)
    assert list(keys) == names
    assert len(set(keys.values())) == len(names)
    assert all(re.fullmatch(KEY_PATTERN, key) for key in keys.values())
