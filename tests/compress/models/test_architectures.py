"""Every architecture takes exactly the longest text that it promises (of a bundle: tests/export/test_bundle.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TASK, make_checkpoint, paredown, task_of, write_csv

from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint
from paredown.export.artifact import read_artifact
from paredown.export.opening import open_artifact

LONG = "the film was good and the plot was dull " * 40
TABLES = ("bert", "roberta", "electra", "distilbert", "mpnet")  # learned positions: one token more is too many
PADDED = [*((kind, None) for kind in FAMILIES if kind != "vit"), ("roberta", 1), ("mpnet", 1)]


def made(path: Path, kind: str, pad: int | None) -> Checkpoint:
    """64 positions. `pad`: its padding token, where it is not the first."""
    checkpoint = make_checkpoint(path, kind, layers=2)
    if pad is not None:
        config = transformers.AutoConfig.from_pretrained(path)
        config.pad_token_id = pad
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return open_checkpoint(checkpoint.path, task_of(kind))


@pytest.mark.parametrize(("kind", "pad"), PADDED)
def test_the_longest_text_is_what_the_model_takes(kind: str, pad: int | None, tmp_path: Path) -> None:
    checkpoint = made(tmp_path / "c", kind, pad)
    offset = 2 if kind == "mpnet" else (pad or 0) + 1 if kind == "roberta" else 0
    assert checkpoint.positions == 64 - offset
    (ids,) = checkpoint.encoder(512).ids([LONG])
    assert len(ids) == checkpoint.positions
    model = load(checkpoint, task_of(kind))
    with torch.inference_mode():
        assert model(torch.tensor([ids])).logits.isfinite().all()
        if kind in TABLES:
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.tensor([[*ids, 5]]))


@pytest.mark.parametrize(("kind", "pad"), [(kind, pad) for kind, pad in PADDED if not FAMILIES[kind].decoder])
def test_the_longest_text_goes_through_a_stage_and_an_export(kind: str, pad: int | None, tmp_path: Path) -> None:
    checkpoint = made(tmp_path / "c", kind, pad)
    rows = write_csv(tmp_path / "rows.csv", [(f"{LONG} {i}", ("negative", "positive")[i % 2]) for i in range(8)])
    options = ["--max-length", 512, "--output-dir"]
    done = paredown("finetune", checkpoint.path, "--train", rows, "--epochs", 1, *options, tmp_path / "tuned")
    assert done.returncode == 0, done.stderr
    done = paredown("export", tmp_path / "tuned", *options, tmp_path / "artefact")
    assert done.returncode == 0, done.stderr
    artifact = read_artifact(tmp_path / "artefact")
    assert artifact.max_length == checkpoint.positions
    encoder, tuned = artifact.encoder(), load(open_checkpoint(tmp_path / "tuned", TASK), TASK)
    (ids,) = encoder.ids([LONG])
    assert len(ids) == checkpoint.positions
    with torch.inference_mode():
        want = tuned(torch.tensor([ids])).logits[0].numpy()
    found = np.asarray(open_artifact(artifact, 1)(encoder.pad([ids, encoder.ids(["a film"])[0]]))["logits"])
    np.testing.assert_allclose(found[0], want, atol=1e-5)
