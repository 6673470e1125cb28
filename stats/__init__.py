"""Pure statistical inference on mergeable totals.

Which sequential method, if somebody looks before the end:

| what is asked | use |
|---|---|
| look all the time, no end planned: a mean, a difference, a relative difference | `sequences` |
| the same for rewards within [0, 1] or proportions, exactly, also under a bandit | `bounded` |
| the same with a known variance, as a p-value | `mixture.MixtureSprt` with `eprocess.AlwaysValid` |
| look all the time up to a known horizon | `yeast` |
| a few planned looks and a known maximum: the most power | `group_sequential` |
| two named hypotheses, as few observations as possible | `sprt` |
| whether a small arm (a canary) is worse than a large one, or not by a margin | `one_sided` |
| rare events in two arms, any and moving traffic shares | `sequential_counts` |
| whether a guardrail is worse, or is not by its margin | two of them, each one-sided by its `alternative` |
| a difference under a policy that reacts to outcomes, at every look and under any drift | `concurrent` |
| the mean of one arm from such data | `adaptive` |
| whether assignments follow their logged probabilities | `srm` |
| what a rule does where nothing differs | `aa` |

"SpeedSeq", a name met in descriptions of fast sequential testing, is no published statistical test. What it
stands for is here: `yeast` for the fastest decision before a known horizon, `mixture` without a horizon,
`group_sequential` for planned looks.
"""
