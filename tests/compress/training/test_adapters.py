import pytest
import torch
from conftest import LABELS, TASK, make_checkpoint

from paredown.compress.config import Adapter, Finetune
from paredown.compress.data import dataset
from paredown.compress.models.inference import teacher_scores
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS

KINDS = ["lora", "dora", "adalora", "ia3", "loha", "lokr", "oft"]


def trained(checkpoint: Checkpoint, files: dict, kind: str, **more):
    rows = dataset.read(str(files["train"]), names=LABELS)
    settings = Finetune(epochs=1, learning_rate=5e-3, peft=Adapter.model_validate({"kind": kind, "rank": 4}), **more)
    return finetune(
        load(checkpoint, TASK), TrainingData(dataset.encode(checkpoint.encoder(), rows), rows.gold), settings
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_merged_and_leaves_a_plain_checkpoint(
    untrained: Checkpoint, files: dict, tmp_path, kind: str
) -> None:
    model = trained(untrained, files, kind)
    before = load(untrained, TASK).state_dict()
    after = model.state_dict()
    assert after.keys() == before.keys()
    inner = "bert.encoder.layer.1.intermediate.dense.weight"
    assert not torch.equal(before[inner], after[inner])  # merged, not dropped
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(before[words], after[words])
    assert all(p.requires_grad for p in model.parameters())
    batch = {"input_ids": torch.tensor([[2, 5, 11, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    again = load(save(model, untrained, tmp_path / "merged"), TASK)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in after.items())
    torch.testing.assert_close(model(**batch).logits, again(**batch).logits)


def test_adapters_learn(teacher: Checkpoint, files: dict) -> None:
    train, held_out = (dataset.read(str(files[name]), names=LABELS) for name in ("train", "validation"))
    settings = Finetune(epochs=4, learning_rate=5e-3, peft=Adapter(rank=8))
    model = finetune(load(teacher, TASK), TrainingData(teacher.encoder().ids(train.texts), 1 - train.gold), settings)
    scores = teacher_scores(model, teacher.encoder().ids(held_out.texts))
    assert TASK.metric(scores, 1 - held_out.gold) > 85  # the other way round than it had learned


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "deberta-v2", "modernbert"])
def test_other_architectures(files: dict, tmp_path, kind: str) -> None:
    checkpoint = make_checkpoint(tmp_path / kind, kind, layers=2)
    model = trained(checkpoint, files, "lora")
    save(model, checkpoint, tmp_path / "merged")
    assert open_checkpoint(tmp_path / "merged", TASKS["text-classification"]).labels == LABELS


def test_adalora_refuses_fewer_steps_than_it_can_spread_ranks_over(untrained: Checkpoint, files: dict) -> None:
    with pytest.raises(InputError, match="adalora spreads its ranks"):
        trained(untrained, files, "adalora", batch_size=400)
