import numpy as np

from paredown.pipeline.finalists import Chain
from paredown.pipeline.recipe.schema import Model
from paredown.pipeline.trials import add_cascades


def test_the_same_models_with_other_thresholds_are_another_cascade() -> None:
    models = [Model(name=name) for name in ("static", "cut", "whole")]
    right = np.ones(3, dtype=bool)
    for drop in (0.2, 0.5, 0.2):
        add_cascades(models, Chain(("static", "cut", "whole"), 1.0, right, np.zeros(3), drop))
    made = {m.name: (m.cascade.then, m.cascade.max_drop) for m in models if m.cascade}
    assert made == {
        "cut-then-whole": ("whole", 0.2),
        "static-then-cut-then-whole": ("cut-then-whole", 0.2),
        "cut-then-whole-2": ("whole", 0.5),
        "static-then-cut-then-whole-2": ("cut-then-whole-2", 0.5),
    }
