"""Optuna studies in files: a killed search resumes and proposes no point twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.runtime.errors import InputError, missing_extra

if TYPE_CHECKING:
    import optuna

STARTUP = 6  # trials at random before the model of the others proposes


def quiet_optuna() -> Any:
    """The module, without its log: why a trial failed is in the study. InputError where it is not installed."""
    try:
        import optuna
        import optuna.storages.journal
    except ImportError as error:
        raise missing_extra(error.name or "optuna", "compress") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def study_at(path: Path, name: str, **more: Any) -> optuna.Study:
    """The study in the journal file `path`, a new one where there is none; `more`: as `optuna.create_study` takes it.

    The end of a line that a kill or a full disk has truncated is removed: what follows would be written into it. Only
    one process may write. Raises InputError where Optuna is not installed, and for a damaged file.
    """
    optuna = quiet_optuna()
    path.parent.mkdir(parents=True, exist_ok=True)
    _end_last_line(path)
    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, **more)
    except (ValueError, KeyError) as error:  # no JSON; a trial that was never begun
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not a study that can be read ({reason}); remove it, and the study begins anew"
        ) from None


def _end_last_line(path: Path) -> None:
    data = path.read_bytes() if path.is_file() else b""
    rest = data.rpartition(b"\n")[2]
    if not rest:
        return
    try:
        json.loads(rest)
    except ValueError:
        path.write_bytes(data[: -len(rest)])
    else:
        path.write_bytes(data + b"\n")


def seed_sampler(study: optuna.Study, seed: int) -> None:
    """Seed the sampler of the next trial by how many there are, the one that a kill has interrupted among them.

    So a study proposes the same points whether or not it was started again, and none of them twice.
    """
    import optuna

    state = np.random.SeedSequence([seed, len(study.trials)]).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(state[0]), n_startup_trials=STARTUP, constant_liar=True)


def reasons(study: optuna.Study) -> list[str]:
    """Why trials failed, each reason once: what they have left as "reason"."""
    return list(dict.fromkeys(t.user_attrs["reason"] for t in study.trials if "reason" in t.user_attrs))
