"""The policy `fixed`. Pure."""

from collections.abc import Iterator

import numpy as np

from app.core.errors import FieldError
from app.core.text import Key
from app.experiments.policies.rule import Evidence, PolicyRule, Scene, Setting, Share, Simulated
from bandits import pulls
from bandits.allocation import Allocation, fixed


class FixedPolicy(PolicyRule, frozen=True, tag="fixed"):
    """Constant shares, one per variant, that sum to 1."""

    reads = "nothing"
    weights: dict[Key, Share]

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield an error unless the weights name every variant, no other, and sum to 1."""
        variants = set(setting.variants)
        if missing := sorted(variants - self.weights.keys()):
            yield FieldError(f"{field}.weights", f"must name every variant; missing {', '.join(missing)}")
        for key in self.weights.keys() - variants:
            yield FieldError(f"{field}.weights.{key}", f"no variant is called {key!r}")
        total = sum(self.weights.values())
        if abs(total - 1) > 1e-6:
            yield FieldError(f"{field}.weights", f"must sum to 1, got {total:g}")

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return the weights."""
        return fixed([self.weights[variant] for variant in evidence.setting.variants])

    def simulated(self, scene: Scene) -> Simulated:
        """Return draws from the weights."""
        weights = np.array([self.weights[variant] for variant in scene.setting.variants])
        return Simulated(pulls.FromTotals(pulls.constant_pulls(weights)), scene.seconds())
