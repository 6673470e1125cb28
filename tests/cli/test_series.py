"""What `wald series` and `wald aa` show: blocks on one scale, blank where nothing is known."""

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console

from app.analysis.aa import Aa, AaRate, MetricAa, sentence
from app.analysis.series import Point, Series, VariantSeries
from app.cli import display
from app.cli.display.series import line

AT = datetime(2026, 1, 1, tzinfo=UTC)


def series(steps=4, **values):
    variants = [
        VariantSeries(
            name,
            name == "control",
            [
                Point(at=AT + timedelta(hours=h), units=n, n=n, value=v, standard_error=0.1)
                for h, (v, n) in points.items()
            ],
        )
        for name, points in values.items()
    ]
    end = AT + timedelta(hours=steps)
    return Series(key="e", metric="cost", kind="mean", step_s=3_600, since=AT, until=end, variants=variants)


def report(found):
    return display.series.report(msgspec.json.encode(found))


def shown(renderable):
    text = io.StringIO()
    Console(width=120, file=text).print(renderable)
    return text.getvalue()


def test_blocks_go_from_the_lowest_value_to_the_highest():
    found = series(control={0: (1.0, 5), 1: (2.0, 5), 3: (3.0, 5)})
    assert line(found, found.variants[0], 1.0, 3.0) == "▁▅ █"


def test_steps_that_share_a_block_count_by_their_units():
    found = series(120, control={0: (0.0, 1), 1: (8.0, 3), 118: (8.0, 1)})
    drawn = line(found, found.variants[0], 0.0, 8.0)
    assert len(drawn) == 60
    assert (drawn[0], drawn[1], drawn[59]) == ("▇", " ", "█")  # (0 + 3 * 8) / 4 = 6 of 8


def test_the_report_names_the_newest_value_and_what_is_missing():
    text = shown(report(series(control={0: (1.0, 5), 2: (2.5, 7)}, short={})))
    assert "control (control)" in text
    assert "2.5" in text
    assert "12" in text
    assert "n/a" in text
    assert "no unit has a value" in shown(report(series(control={}, short={})))


def test_the_figure_needs_no_network(tmp_path):
    path = tmp_path / "cost.html"
    answer = msgspec.json.encode(series(control={0: (1.0, 5)}, short={1: (2.0, 5)}))
    display.series.write_figure(answer, path)
    assert "src=" not in path.read_text()[:500]


@pytest.mark.parametrize(
    ("decisions", "replays", "said"),
    [(0, 20, "more replays"), (8, 200, "keeps its error rate"), (40, 200, "too often")],
)
def test_the_sentence_of_aa_complains_only_beyond_chance(decisions, replays, said):
    rate = AaRate.of(decisions, replays, 0.05)
    assert said in sentence(rate, replays, 500)
    metric = MetricAa(
        metric="cost",
        role="primary",
        units=500,
        noise_floor=0.1,
        relative_noise_floor=None,
        false_positives=rate,
    )
    answer = Aa(
        key="e",
        units=500,
        sampled=True,
        looks=(250, 500),
        first=0,
        replays=replays,
        false_positives=rate,
        metrics=(metric,),
        sentence=sentence(rate, replays, 500),
    )
    text = shown(display.aa.report(answer))
    assert "a random part" in text
    assert "n/a" in text
