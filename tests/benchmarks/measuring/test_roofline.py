from pathlib import Path

import pytest
from conftest import TASK

from paredown.benchmarks.measuring.roofline import Rates, Work, floor_ms, machine_rates, work_of
from paredown.compress.models.loading import Checkpoint
from paredown.export.onnx.cascade import join
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES

LAYERS, WIDTH, FFN = 3, 32, 64
ENCODER = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * FFN)  # of one token
HEAD = WIDTH * WIDTH + 2 * WIDTH  # pooler and classifier


def test_the_work_of_an_encoder_is_the_textbook_formula(teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    floats = RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "fp32", 32))
    (always,) = work_of(floats.path / "model.onnx")
    assert always == Work(ENCODER + HEAD, 0, LAYERS * 2 * WIDTH, 4 * (ENCODER + HEAD))
    int8 = RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "int8", 32, "int8-dynamic"))
    (always,) = work_of(int8.path / "model.onnx")
    assert always.int8_token + always.float_token == ENCODER + HEAD
    assert always.int8_token >= ENCODER
    both = join(floats, int8, 0.9, tmp_path / "both")
    quick, slow = work_of(both.path / "model.onnx")
    assert quick.float_token == ENCODER + HEAD
    assert slow == always


def test_the_floor_counts_every_token_and_every_pair() -> None:
    work, rates = Work(1000, 400, 10, 0), Rates(100.0, 200.0, 1e9)
    assert floor_ms(work, [10], rates) == pytest.approx(10 * (10 + 2) + 100 * 0.1)
    assert floor_ms(work, [10, 20], rates) == pytest.approx((130 + 280) / 2)
    assert floor_ms(Work(1, 0, 0, 5000), [1], Rates(1.0, 1.0, 10.0)) == 500  # the weights must be read once


def test_the_machine_has_rates() -> None:
    rates = machine_rates(1, seconds=0.05)
    assert min(rates.float_macs, rates.int8_macs, rates.bytes_read) > 1e4
