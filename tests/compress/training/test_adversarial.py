import pytest
import torch
from conftest import LABELS, TASK

from paredown.compress.config import Adversary, Finetune, Recover
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, load
from paredown.compress.training.adversarial import hardened
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.runtime.preprocessor import collate

BATCH = {
    "input_ids": torch.tensor([[2, 5, 11, 20, 3], [2, 6, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "labels": torch.tensor([0, 1]),
}


def loss(net, batch):
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


@pytest.mark.parametrize("kind", ["fgm", "pgd", "freelb"])
def test_pushes_hurt_are_no_larger_than_asked_and_leave_nothing_behind(teacher: Checkpoint, kind: str) -> None:
    model = load(teacher, TASK)
    words = model.get_input_embeddings()
    plain, seen = words(BATCH["input_ids"]).detach(), []
    settings = Adversary.model_validate({"kind": kind, "epsilon": 0.2})
    hook = words.register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    harder = hardened(loss, model, settings)
    hook.remove()
    before = loss(model, BATCH).item()
    norm = model.get_submodule("bert.embeddings.LayerNorm")
    watch = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    quiet = []
    with torch.no_grad():
        loss(model, BATCH)
        quiet = seen.pop()
    total = harder(model, BATCH)
    watch.remove()
    mask = BATCH["attention_mask"][..., None]
    radius = 0.2 * (plain * mask).flatten(1).norm(dim=1)
    pushes = [(pushed - quiet).detach() for pushed in seen]
    assert max(float((p.flatten(1).norm(dim=1) / radius).max()) for p in pushes) <= 1 + 1e-4
    assert max(float(p.flatten(1).norm(dim=1).max()) for p in pushes) > 0
    assert all(float((p * (1 - mask)).abs().max()) < 1e-6 for p in pushes)  # padding is not pushed
    hurt = total.item() - (before if kind != "freelb" else 0)
    assert hurt > before  # the pushed loss is the larger one
    total.backward()
    grad = model.get_parameter("classifier.weight").grad
    assert grad is not None
    assert grad.abs().sum() > 0
    assert loss(model, BATCH).item() == pytest.approx(before)


def test_training_under_pushes_makes_the_model_harder_to_push(teacher: Checkpoint, files: dict) -> None:
    rows = dataset.read(str(files["train"]), names=LABELS)
    ids = teacher.encoder().ids(rows.texts)
    batch = {name: torch.from_numpy(array) for name, array in collate(ids[:200], 0).items()}
    batch["labels"] = torch.from_numpy(rows.gold[:200])
    pushed = {}
    for name, adversary in (("plain", None), ("hard", Adversary(epsilon=0.3))):
        settings = Finetune(epochs=3, learning_rate=1e-3, freeze_embeddings=False, adversarial=adversary)
        model = finetune(load(teacher, TASK), TrainingData(ids, rows.gold), settings)
        with_push = hardened(loss, model, Adversary(epsilon=0.3))(model, batch)
        pushed[name] = with_push.item() - loss(model, batch).item()
    assert pushed["hard"] < pushed["plain"]


def test_every_training_stage_takes_it() -> None:
    assert Recover.model_validate({"adversarial": {"kind": "pgd", "steps": 2}}).adversarial == Adversary(
        kind="pgd", steps=2
    )
