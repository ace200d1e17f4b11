import itertools

import optuna
import pytest

from paredown.pipeline.proposals import EPOCHS, RATES, Proposal, Proposals

KNOWN = [(Proposal(2.0, 2e-4, 1.0), 0.02), (Proposal(3.0, 2e-4, 1.0), 0.05), (Proposal(4.0, 2e-4, 0.6), 0.11)]


def proposals(seed: int = 13) -> Proposals:
    made = Proposals(1.1, 4.0, seed)
    for proposal, distance in KNOWN:
        made.add(proposal, distance)
    return made


def test_the_same_trials_lead_to_the_same_proposals_and_another_seed_to_others() -> None:
    first, second, other = proposals(), proposals(), proposals(seed=14)
    asked = []
    for made in (first, second, other):
        mine = []
        for _ in range(8):
            number, wanted = made.ask()
            mine.append(wanted)
            made.tell(number, wanted.speedup, wanted.speedup / 60)
        asked.append(mine)
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[0])) == 8
    assert all(1.1 <= p.speedup <= 4 for p in asked[0])
    assert all(RATES[0] <= p.learning_rate <= RATES[1] and EPOCHS[0] <= p.epochs <= EPOCHS[1] for p in asked[0])


def test_what_trials_have_shown_moves_the_proposals() -> None:
    """Where only a high learning rate comes near the teacher, later proposals have one."""
    made, rates = proposals(), []
    for _ in range(40):
        number, wanted = made.ask()
        rates.append(wanted.learning_rate)
        made.tell(number, wanted.speedup, 0.01 if wanted.learning_rate > 3e-4 else 0.5)
    high = [rate > 3e-4 for rate in rates]
    assert sum(high[20:]) > sum(high[:6]) / 6 * 20


@pytest.mark.parametrize("outside", [Proposal(5.0, 2e-4, 1.0), Proposal(2.0, 2e-3, 1.0), Proposal(2.0, 2e-4, 3.0)])
def test_a_model_outside_the_space_is_left_out(outside: Proposal) -> None:
    made = proposals()
    made.add(outside, 0.1)
    assert len(made.study.trials) == len(KNOWN)


def test_of_several_proposals_in_flight_none_is_near_another_and_a_failed_one_counts_for_nothing() -> None:
    """With 20 trials known, so that the sampler's model proposes."""
    made = proposals()
    for _ in range(20):
        number, wanted = made.ask()
        made.tell(number, wanted.speedup, wanted.speedup / 60)
    flying = [made.ask() for _ in range(6)]
    speeds = sorted(wanted.speedup for _, wanted in flying)
    assert all(faster / slower > 1.001 for slower, faster in itertools.pairwise(speeds))
    known = len([trial for trial in made.study.trials if trial.state == optuna.trial.TrialState.COMPLETE])
    made.fail(flying[0][0])
    for number, wanted in reversed(flying[1:]):
        made.tell(number, wanted.speedup, 0.1)
    states = [trial.state for trial in made.study.trials]
    assert states.count(optuna.trial.TrialState.FAIL) == 1
    assert states.count(optuna.trial.TrialState.COMPLETE) == known + 5
    assert made.ask()[1] not in [wanted for _, wanted in flying]
