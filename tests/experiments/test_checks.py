"""Definitions that do not fit together are refused, naming field and reason."""

import msgspec
import pytest

from app.core.errors import InvalidInput
from app.core.limits import JSON_DEPTH_MAX
from app.experiments import limits
from app.experiments.checks import check
from app.experiments.model import Definition

AGE = {"type": "numeric", "name": "age"}
TWO = [{"key": "control", "control": True}, {"key": "short"}]


def definition(**fields) -> Definition:
    return msgspec.convert({"key": "summary-prompt", "variants": TWO} | fields, Definition)


def errors_of(**fields) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        check(definition(**fields))
    for error in caught.value.errors:
        assert f"{error.field}: {error.reason}" in caught.value.detail
    return {error.field: error.reason for error in caught.value.errors}


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_the_example_of_the_reference_is_fine():
    example = definition(
        variants=[
            {"key": "control", "control": True, "payload": {"model": "m-large", "prompt": "v1"}},
            {"key": "short", "payload": {"model": "m-small", "prompt": "v2"}},
        ],
        stickiness="none",
        policy={"kind": "thompson", "exploration_floor": 0.05},
        reward={
            "signals": {"thumbs_up": 1.0, "thumbs_down": 0.0},
            "combine": "last",
            "horizon_s": 3600,
            "silence": None,
        },
    )
    assert check(example) is example
    assert example.control_index == 0


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"variants": TWO[:1]}, "variants", "must be 2 to 50, got 1"),
        (
            {"variants": [TWO[0], *({"key": f"v{n}"} for n in range(50))]},
            "variants",
            "must be 2 to 50, got 51",
        ),
        ({"variants": [*TWO, {"key": "short"}]}, "variants", "keys must differ"),
        ({"variants": [{"key": "a"}, {"key": "b"}]}, "variants", "exactly one must be the control, got 0"),
        (
            {"variants": [{"key": "a", "control": True}, {"key": "b", "control": True}]},
            "variants",
            "exactly one must be the control, got 2",
        ),
        (
            {"variants": [TWO[0], {"key": "b", "payload": "x" * 16_383}]},
            "variants[1].payload",
            "at most 16384 bytes of JSON, got 16385",
        ),
        (
            {"variants": [TWO[0], {"key": "b", "payload": {"a": ["\0"]}}]},
            "variants[1].payload.a[0]",
            "must not contain U+0000",
        ),
        (
            {"variants": [TWO[0], {"key": "b", "payload": {"\0": 1}}]},
            "variants[1].payload",
            "must not contain U+0000",
        ),
        (
            {"variants": [TWO[0], {"key": "b", "payload": "\ud800"}]},
            "variants[1].payload",
            "must not contain lone surrogates",
        ),
        (
            {"variants": [TWO[0], {"key": "b", "payload": {"n": 2**64}}]},
            "variants[1].payload.n",
            "integers must fit 64 bits",
        ),
        ({"description": "\0"}, "description", "must not contain U+0000"),
        (
            {"policy": {"kind": "fixed", "weights": {"control": 1}}},
            "policy.weights",
            "must name every variant; missing short",
        ),
        (
            {"policy": {"kind": "fixed", "weights": {"control": 0.5, "short": 0.5, "long": 0}}},
            "policy.weights.long",
            "no variant is called 'long'",
        ),
        (
            {"policy": {"kind": "fixed", "weights": {"control": 0.5, "short": 0.4}}},
            "policy.weights",
            "must sum to 1, got 0.9",
        ),
        (
            {"policy": {"kind": "top_two", "posterior": "gamma"}, "reward": {"range": [-1, 1]}},
            "policy.posterior",
            "gamma needs a reward.range that begins at 0, got -1",
        ),
        (
            {"policy": {"kind": "best_arm", "step_max": 0.1}},
            "policy.step_max",
            "does not apply to best_arm",
        ),
        (
            {"policy": {"kind": "lin_ts", "features": [AGE], "step_max": 0.1}},
            "policy.step_max",
            "does not apply to lin_ts",
        ),
        (
            {"policy": {"kind": "best_arm", "rule": "track_and_stop", "exploration_floor": 0}},
            "policy.exploration_floor",
            "track_and_stop needs more than 0",
        ),
        ({"policy": {"kind": "lin_ts", "features": []}}, "policy.features", "must be at least one"),
        (
            {"policy": {"kind": "thompson", "posterior": "normal", "warm_start": {"experiment": "before"}}},
            "policy.warm_start",
            "needs the posterior beta, got normal",
        ),
        (
            {"policy": {"kind": "thompson", "warm_start": {"experiment": "summary-prompt"}}},
            "policy.warm_start.experiment",
            "must be another experiment",
        ),
        (
            {
                "policy": {
                    "kind": "thompson",
                    "warm_start": {"experiment": "before"},
                    "forgetting": {"kind": "window", "window_s": 3600},
                }
            },
            "policy.warm_start",
            "does not apply to a policy that forgets",
        ),
        (
            {"shadow_policy": {"kind": "ucb", "forgetting": {"kind": "window", "window_s": 3600}}},
            "shadow_policy.forgetting",
            "does not apply to a shadow policy: it gets the same totals",
        ),
        (
            {"shadow_policy": {"kind": "thompson", "warm_start": {"experiment": "before"}}},
            "shadow_policy.warm_start",
            "does not apply to a shadow policy: it gets the same totals",
        ),
        (
            {"responses": {"redact": ["emial"]}},
            "responses.redact[0]",
            "must be one of email, phone, card, iban, api_key, got 'emial'; did you mean 'email'?",
        ),
        (
            {"shadow_policy": {"kind": "lin_ts", "features": [AGE]}},
            "shadow_policy.kind",
            "lin_ts reads more than the reward totals, and a shadow policy gets nothing else",
        ),
        (
            {"shadow_policy": {"kind": "exp3_ix"}},
            "shadow_policy.kind",
            "exp3_ix reads more than the reward totals, and a shadow policy gets nothing else",
        ),
        (
            {"shadow_policy": {"kind": "top_two", "step_max": 0.1}},
            "shadow_policy.step_max",
            "does not apply to a shadow policy: its shares are never in force",
        ),
        (
            {"shadow_policy": {"kind": "fixed", "weights": {"control": 1}}},
            "shadow_policy.weights",
            "must name every variant; missing short",
        ),
        (
            {"policy": {"kind": "lin_ucb", "features": [AGE, AGE]}},
            "policy.features",
            "features must have different names, got ['age', 'age']",
        ),
        (
            {"policy": {"kind": "lin_ts", "features": [{"type": "hashed", "name": "q", "buckets": 64}, AGE]}},
            "policy.features",
            "features must have at most 64 columns, got 65",
        ),
        (
            {"policy": {"kind": "logistic_ts", "features": [AGE | {"name": "a b"}]}},
            "policy.features[0].name",
            "must be 1 to 128 of A-Z a-z 0-9 . _ -",
        ),
        (
            {"policy": {"kind": "lin_ts", "features": [AGE | {"scale": 1e-200}]}},
            "policy.features[0].scale",
            "must be 1e-12 to 1e+12, got 1e-200",
        ),
        (
            {
                "policy": {
                    "kind": "lin_ts",
                    "features": [{"type": "categorical", "name": "a", "values": ["\0"]}],
                }
            },
            "policy.features[0].values[0]",
            "must not contain U+0000",
        ),
        (
            {"reward": {"range": [1, 1]}},
            "reward.range",
            "must be [low, high] with low < high, got [1, 1]",
        ),
        (
            {"metrics": [{"key": "m", "measure": {"kind": "mean", "signal": "s"}}] * 2},
            "metrics",
            "keys must differ",
        ),
        (
            {"metrics": [{"key": "reward", "measure": {"kind": "mean", "signal": "s"}}]},
            "metrics[0].key",
            "'reward' is the reward of the definition",
        ),
        (
            {"metrics": [{"key": "m", "measure": {"kind": "mean", "signal": "s", "silence": 1e12}}]},
            "metrics[0].measure.silence",
            "at most 1e+09 in size, got 1e+12",
        ),
        ({"policy": {"kind": "segmented_thompson", "by": []}}, "policy.by", "must be at least one attribute"),
        (
            {"policy": {"kind": "segmented_thompson", "by": [{"attribute": "device", "values": ["a", "a"]}]}},
            "policy.by[0].values",
            "must differ",
        ),
        (
            {
                "policy": {
                    "kind": "segmented_thompson",
                    "by": [{"attribute": a, "values": ["1", "2", "3", "4", "5"]} for a in "abc"],
                }
            },
            "policy.by",
            "at most 200 segments, `other` of each included, got 216",
        ),
        ({"plan": {"covariates": ["age", "age"]}}, "plan.covariates", "names must differ"),
        (
            {"plan": {"segments": {"attribute": "device", "values": []}}},
            "plan.segments.values",
            "must be 1 to 20, got 0",
        ),
        (
            {"plan": {"segments": {"attribute": "device", "values": ["other"]}}},
            "plan.segments.values",
            "'other' stands for every other value; '' is not a value",
        ),
        ({"reward": {"signals": {}}}, "reward.signals", "must be 1 to 64, got 0"),
        (
            {"reward": {"signals": {"stars": 5}}},
            "reward.signals.stars",
            "must be within the range [0, 1], got 5",
        ),
        (
            {"reward": {"signals": {"stars": -5}}},
            "reward.signals.stars",
            "must be within the range [-1, 1], got -5",
        ),
        (
            {"reward": {"signals": {"stars": {"weight": 0}}, "combine": "mean"}},
            "reward.signals.stars.weight",
            "must be 1e-06 to 100 in size, got 0",
        ),
        (
            {"reward": {"signals": {"latency_ms": {"weight": 2}}, "combine": "mean"}},
            "reward.signals.latency_ms",
            "has no scale in the catalogue; give it a reference, range or calibration",
        ),
        (
            {"reward": {"signals": {"stars": {"range": [5, 1]}}}},
            "reward.signals.stars.range",
            "must be [low, high] with low < high, got [5, 1]",
        ),
        (
            {"reward": {"signals": {"stars": {}}, "combine": "sum"}},
            "reward.signals.stars",
            "must be a number if combine is sum; use combine mean for ranges and weights",
        ),
        (
            {"reward": {"signals": {"cost_usd": {"reference": 1, "range": [0, 1]}}}},
            "reward.signals.cost_usd.reference",
            "takes the place of range; give one of them",
        ),
        (
            {"reward": {"signals": {"stars": {"calibration": [[1, 0.1], [3, 0.9], [5, 0.2]]}}}},
            "reward.signals.stars.calibration",
            "must be monotone: its scores must all rise or all fall with the value",
        ),
        (
            {"reward": {"signals": {"stars": {"calibration": [[1, 0.1], [1, 0.9]]}}}},
            "reward.signals.stars.calibration",
            "the values of its points must increase from each point to the next",
        ),
        (
            {"reward": {"signals": {"stars": {}, "csat": {}}, "combine": "first", "order": ["star"]}},
            "reward.order",
            "must list every signal; add 'stars', 'csat'",
        ),
        (
            {"reward": {"signals": {"stars": {}}, "required": ["star"]}},
            "reward.required",
            "'star' is not in reward.signals; did you mean 'stars'?",
        ),
        (
            {"reward": {"signals": {"stars": {}}, "order": ["stars"]}},
            "reward.order",
            "belongs to combine first; combine is last",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "exists"}] * 33},
            "targeting",
            "at most 32 conditions, got 33",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "in"}]},
            "targeting[0].values",
            "must be 1 to 1000, got 0",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "greater", "values": ["7"]}]},
            "targeting[0].values",
            "greater takes one number",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "less", "values": [True]}]},
            "targeting[0].values",
            "less takes one number",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "greater", "values": [1, 2]}]},
            "targeting[0].values",
            "greater takes one number",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "exists", "values": [1]}]},
            "targeting[0].values",
            "exists takes no values",
        ),
        (
            {"targeting": [{"attribute": "a", "operator": "in", "values": ["\0"]}]},
            "targeting[0].values[0]",
            "must not contain U+0000",
        ),
        ({"overrides": {"u": "long"}}, "overrides.u", "no variant is called 'long'"),
        ({"overrides": {f"u{n}": "short" for n in range(1_001)}}, "overrides", "at most 1000, got 1001"),
        ({"overrides": {"a\0": "short"}}, "overrides", "must not contain U+0000"),
    ],
)
def test_a_part_that_does_not_fit_is_named_with_the_reason(fields, field, reason):
    assert errors_of(**fields)[field] == reason


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"key": ""}, "$.key"),
        ({"key": "a b"}, "$.key"),
        ({"key": "a\n"}, "$.key"),
        ({"key": "x" * 129}, "$.key"),
        ({"variants": [{"key": "a/b"}]}, "$.variants[0].key"),
        ({"unit": ""}, "$.unit"),
        ({"stickiness": "sometimes"}, "$.stickiness"),
        ({"policy": {"kind": "magic"}}, "$.policy.kind"),
        ({"policy": {"kind": "fixed", "weights": {"control": -0.1}}}, "$.policy.weights"),
        ({"policy": {"kind": "thompson", "exploration_floor": 1.1}}, "$.policy.exploration_floor"),
        ({"policy": {"kind": "thompson", "posterior": "cauchy"}}, "$.policy.posterior"),
        ({"policy": {"kind": "optimistic_thompson", "sampling": 0}}, "$.policy.sampling"),
        ({"policy": {"kind": "top_two", "leader_share": 1}}, "$.policy.leader_share"),
        (
            {"policy": {"kind": "ucb", "forgetting": {"kind": "window", "window_s": 59}}},
            "$.policy.forgetting.window_s",
        ),
        ({"policy": {"kind": "best_arm", "forgetting": {"kind": "window", "window_s": 60}}}, "$.policy"),
        ({"policy": {"kind": "lin_ts"}}, "$.policy"),
        ({"policy": {"kind": "best_arm", "delta": 0}}, "$.policy.delta"),
        ({"policy": {"kind": "exp3_ix", "eta": 0}}, "$.policy.eta"),
        ({"policy": {"kind": "best_arm", "indifference": 1}}, "$.policy.indifference"),
        ({"policy": {"kind": "thompson", "step_max": 0}}, "$.policy.step_max"),
        (
            {"policy": {"kind": "thompson", "warm_start": {"experiment": "x", "n_max": 0}}},
            "$.policy.warm_start.n_max",
        ),
        ({"policy": {"kind": "top_two", "warm_start": {"experiment": "x"}}}, "$.policy"),
        ({"policy": {"kind": "lin_ts", "features": [AGE | {"scal": 1}]}}, "$.policy.features[0]"),
        ({"policy": {"kind": "lin_ts", "features": [AGE | {"scale": 0}]}}, "$.policy.features[0]"),
        ({"policy": {"kind": "lin_ts", "features": [AGE | {"type": "date"}]}}, "$.policy.features[0].type"),
        ({"policy": {"kind": "lin_ts", "features": [AGE], "on_bad_context": "x"}}, "$.policy.on_bad_context"),
        ({"policy": {"kind": "lin_ucb", "features": [AGE], "width": -1}}, "$.policy.width"),
        ({"policy": {"kind": "ucb", "index": "ucb2"}}, "$.policy.index"),
        ({"policy": {"kind": "ucb", "rounds_ahead": 0}}, "$.policy.rounds_ahead"),
        ({"policy": {"kind": "epsilon_greedy", "epsilon": 1.5}}, "$.policy.epsilon"),
        ({"policy": {"kind": "epsilon_greedy", "epsilon": {"gap": 0}}}, "$.policy.epsilon.gap"),
        ({"policy": {"kind": "thompson", "prior": {"alpha": 0}}}, "$.policy.prior.alpha"),
        ({"reward": {"combine": "median"}}, "$.reward.combine"),
        ({"reward": {"horizon_s": 0}}, "$.reward.horizon_s"),
        ({"reward": {"horizon_s": 90 * 86_400 + 1}}, "$.reward.horizon_s"),
        ({"reward": {"silence": 1.5}}, "$.reward.silence"),
        ({"reward": {"range": [0, 1e308]}}, "$.reward.range[1]"),
        ({"reward": {"signals": {"cost": -1e300}}}, "$.reward.signals"),
        ({"overrides": {"": "short"}}, "$.overrides"),
        ({"overrides": {"u" * 257: "short"}}, "$.overrides"),
        ({"layer": {"key": "a", "start": 0.5, "end": 0.5}}, "$.layer"),
        ({"layer": {"key": "a", "end": 1.1}}, "$.layer.end"),
        ({"layer": {"key": "a b"}}, "$.layer.key"),
        ({"description": "x" * 4_097}, "$.description"),
        ({"salt": "mine"}, "salt"),
    ],
)
def test_a_value_out_of_its_bounds_is_named_with_its_place(fields, place):
    with pytest.raises(msgspec.ValidationError) as caught:
        definition(**fields)
    assert place in str(caught.value)


def test_depth_ends_at_its_limit():
    def payload(value):
        return [TWO[0], {"key": "b", "payload": value}]

    check(definition(variants=payload(nested(JSON_DEPTH_MAX))))
    (reason,) = errors_of(variants=payload(nested(JSON_DEPTH_MAX + 1))).values()
    assert reason == f"nested deeper than {JSON_DEPTH_MAX}"


def test_a_sum_may_have_parts_outside_its_range():
    check(definition(reward={"signals": {"click": 1, "complaint": -3}, "combine": "sum", "range": [-3, 5]}))


def test_all_errors_come_at_once_up_to_a_bound():
    found = errors_of(variants=[{"key": "a"}], overrides={"u": "nobody"}, reward={"range": [2, 1]})
    assert {"variants", "overrides.u", "reward.range"} <= found.keys()
    many = errors_of(overrides={f"u{number}": "nobody" for number in range(500)})
    assert len(many) == limits.FIELD_ERRORS_MAX
