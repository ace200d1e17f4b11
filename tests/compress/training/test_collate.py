import numpy as np
import torch

from paredown.compress.training.collate import PARTNER, ROW, stack
from paredown.tasks.base import NO_LABEL


def test_texts_are_padded_to_a_multiple_and_what_belongs_to_tokens_with_them() -> None:
    rows = [
        {ROW: [1, 2, 3], "labels": np.array([0, 1, 0]), "teacher_logits": np.ones((3, 2)), "several": np.ones(10)},
        {ROW: [4] * 10, "labels": np.ones(10, int), "teacher_logits": np.ones((10, 2)), "several": np.ones(10)},
    ]
    batch = stack(rows, 7, multiple=8, per_token={"labels", "teacher_logits"})
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape == (2, 16)
    assert batch["input_ids"][0].tolist() == [1, 2, 3] + [7] * 13
    assert batch["attention_mask"].sum(1).tolist() == [3, 10]
    assert batch["labels"][1].tolist() == [1] * 10 + [NO_LABEL] * 6
    assert batch["teacher_logits"].shape == (2, 16, 2)
    assert batch["several"].shape == (2, 10)  # one entry a label, as many as a row has tokens


def test_a_partner_is_padded_as_its_text_is() -> None:
    batch = stack([{ROW: [1, 2], PARTNER: [3] * 9, "labels": 0.5}], 0, multiple=8)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["labels"].dtype == torch.float64


def test_images_have_no_length() -> None:
    rows = [{ROW: np.zeros((1, 3, 4, 4), np.float32), "labels": 1}] * 2
    assert stack(rows, 0, multiple=8)["pixel_values"].shape == (2, 3, 4, 4)
