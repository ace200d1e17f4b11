"""What a search tries once its own order has no further step: Optuna proposes a speed-up and how it is trained.

The sampler is the multi-objective TPE of Ozaki et al. (2022, doi 10.1613/jair.1.13188), for little time and a small
distance to the teacher. It knows every pruned model of the search, those that it did not propose too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from paredown.compress.training.studies import quiet_optuna, seed_sampler

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

RATES = (5e-5, 6e-4)  # learning rates
EPOCHS = (0.5, 2.0)  # times the epochs that the search gives a model


class Proposal(NamedTuple):
    """A predicted speed-up and the training of the model; `epochs`: times those that the search gives a model."""

    speedup: float
    learning_rate: float
    epochs: float


class Proposals:
    """Proposals between two predicted speed-ups. The same trials in the same order lead to the same proposals. Several
    may be asked for before the first is told: those that are not told count as bad (constant liar), so that others near
    them are not proposed.

    Raises InputError where Optuna is not installed.
    """

    def __init__(self, least: float, most: float, seed: int) -> None:
        optuna = quiet_optuna()
        self.space: dict[str, FloatDistribution] = {
            name: optuna.distributions.FloatDistribution(*bounds, log=True)
            for name, bounds in zip(Proposal._fields, ((least, most), RATES, EPOCHS), strict=True)
        }
        self.study = optuna.create_study(directions=["minimize", "minimize"])
        self.seed = seed

    def add(self, made: Proposal, distance: float) -> None:
        """Take a model into account that was not proposed; one outside the space is left out."""
        import optuna

        params = made._asdict()
        if all(self.space[name].low <= value <= self.space[name].high for name, value in params.items()):
            values = (-math.log(made.speedup), distance)
            self.study.add_trial(optuna.create_trial(params=params, distributions={**self.space}, values=values))

    def ask(self) -> tuple[int, Proposal]:
        """The next proposal, with its number."""
        seed_sampler(self.study, self.seed)
        trial = self.study.ask({**self.space})
        return trial.number, Proposal(**trial.params)

    def tell(self, number: int, speedup: float, distance: float) -> None:
        """What a proposal led to: the predicted speed-up that was reached, and the distance to the teacher."""
        self.study.tell(number, (-math.log(speedup), distance))

    def fail(self, number: int) -> None:
        """A proposal that led to nothing."""
        import optuna

        self.study.tell(number, state=optuna.trial.TrialState.FAIL)
