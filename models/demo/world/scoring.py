"""Compares what captions say with what was there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.demo.world.parsing import attributes, parse
from models.demo.world.truth import SceneTruth

NOTHING = "nothing"  # what was said of an object that a caption leaves out
SHOWN_BY_EVENTS = ("kind", "distance", "direction", "speed")  # colour is the frames' alone


@dataclass
class Score:
    """Attributes asked for and stated rightly, object by object in the truth's order."""

    right: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (attribute, true value, what was said)

    def add(self, text: str, truth: SceneTruth) -> float | None:
        """Count one caption; its own share of attributes right, None where there was nothing to say."""
        said, right, asked = parse(text), 0, 0
        for i, thing in enumerate(attributes(truth)):
            for name, value in thing.items():
                if name == "direction" and value is None:
                    continue  # what stands has no direction; its speed says so
                stated = dict(said[i])[name] if i < len(said) else None
                hit = stated == value
                self.asked[name] += 1
                self.pairs[name, str(value), str(stated or NOTHING)] += 1
                self.right[name] += hit
                asked, right = asked + 1, right + hit
        return right / asked if asked else None

    def share(self, names: Sequence[str] | None = None) -> float | None:
        """Share of the attributes `names` (None: all) that were right; None where none was asked for."""
        chosen = self.asked.keys() if names is None else names
        asked = sum(self.asked[name] for name in chosen)
        return sum(self.right[name] for name in chosen) / asked if asked else None

    def confusion(self, name: str) -> dict[str, dict[str, int]]:
        """How often each true value of an attribute was called what; values in the order of their frequency."""
        table: dict[str, dict[str, int]] = {}
        for (attribute, true, said), count in self.pairs.most_common():
            if attribute == name:
                table.setdefault(true, {})[said] = count
        return table

    def by_attribute(self) -> dict[str, float]:
        return {name: self.right[name] / count for name, count in self.asked.items()}
