"""Pixels as transformers' own image processors make them, image columns, and what is refused."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import IMAGES, make_checkpoint, write_preprocessor
from picturing import picture, png, write_folder, write_rows
from PIL import Image
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import load, open_checkpoint
from paredown.compress.models.structure import blocks
from paredown.runtime.errors import InputError
from paredown.runtime.images import ImagePreprocessor, TooLarge, bytes_of, decoded, uri
from paredown.runtime.preprocessor import collate, run_rows
from paredown.tasks.registry import TASKS


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (ViTImageProcessorPil, {"size": {"height": 16, "width": 20}}),
        (ViTImageProcessorPil, {"size": {"height": 9, "width": 9}, "image_mean": [0.1, 0.2, 0.3], "resample": 3}),
        (ViTImageProcessorPil, {"size": {"height": 16, "width": 16}, "do_normalize": False}),
        (ConvNextImageProcessorPil, {"size": {"shortest_edge": 32}}),
        (ConvNextImageProcessorPil, {"size": {"shortest_edge": 384}}),
        (DeiTImageProcessorPil, {"size": {"height": 40, "width": 40}, "crop_size": {"height": 33, "width": 32}}),
        (DeiTImageProcessorPil, {"size": {"height": 20, "width": 20}, "crop_size": {"height": 33, "width": 32}}),
        (DeiTImageProcessorPil, {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}),
    ],
)
def test_pixels_are_those_of_transformers(kind: type, settings: dict, tmp_path: Path) -> None:
    theirs = kind(**settings)
    theirs.save_pretrained(tmp_path)
    ours = ImagePreprocessor(tmp_path / "preprocessor_config.json")
    for height, width in ((17, 31), (64, 40), (8, 8), (33, 33)):
        image = picture(height, width)
        (got,) = ours.ids([uri(png(image))])
        want = theirs(image, return_tensors="np")["pixel_values"]
        assert got.dtype == np.float32
        assert got.shape == (1, *ours.shape)
        np.testing.assert_array_equal(got, want)


def test_old_files_say_a_size_as_one_number(tmp_path: Path) -> None:
    """As on the Hub for ResNet: the shorter edge to 36, then the middle 32."""
    file = tmp_path / "preprocessor_config.json"
    known = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 32, "crop_pct": 0.875, "resample": 3}
    file.write_text(json.dumps(known | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_center_crop": False}))
    theirs = ConvNextImageProcessorPil(size={"shortest_edge": 32})
    image = picture(50, 40)
    (got,) = ImagePreprocessor(file).ids([uri(png(image))])
    np.testing.assert_array_equal(got, theirs(image, return_tensors="np")["pixel_values"])


def test_grey_colour_and_rotated_images(tmp_path: Path) -> None:
    write_preprocessor(tmp_path, 8)
    file = tmp_path / "preprocessor_config.json"
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    (colour,) = ImagePreprocessor(file).ids([uri(png(grey))])
    (one,) = ImagePreprocessor(file, 3).ids([uri(png(grey))])
    np.testing.assert_array_equal(colour, one)
    assert (colour[0, 0] == colour[0, 2]).all()
    known = json.loads(file.read_text()) | {"image_mean": 0.5, "image_std": [0.5]}
    file.write_text(json.dumps(known))
    (grey_only,) = ImagePreprocessor(file, 1).ids([uri(png(grey))])
    np.testing.assert_array_equal(grey_only[0, 0], colour[0, 0])
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    grey.save(turned, "PNG", exif=exif)
    (upright,) = ImagePreprocessor(file, 1).ids([uri(turned.getvalue())])
    np.testing.assert_array_equal(upright[0, 0], colour[0, 0, ::-1, ::-1])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": {"shortest_edge": 16}}, "images of one size"),
        ({"size": None}, "'size' is None"),
        ({"size": {"height": 10**6, "width": 8}}, "from 1 to 4096"),
        ({"image_mean": [0.5] * 2}, "'image_mean' has 2 numbers, the model 3 channels"),
        ({"image_std": None}, "image_std"),
        ({"do_pad": True}, "'do_pad' is not known"),
        ({"image_processor_type": "LevitImageProcessor"}, "'Levit' image processors are not known"),
        ({"num_channels": 4}, "num_channels is 4"),
    ],
)
def test_a_preprocessor_that_is_not_known_is_refused(change: dict, why: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, "vit")
    file = checkpoint.path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=r"preprocessor_config.json: not a preprocessor that is known here") as error:
        open_checkpoint(checkpoint.path, IMAGES)
    assert why in str(error.value)


def test_a_checkpoint_names_what_it_lacks(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "vit").path
    with pytest.raises(InputError, match="made for image-classification, not text-classification"):
        open_checkpoint(path, TASKS["text-classification"])
    write_preprocessor(path, 32)
    with pytest.raises(InputError, match=r"images of \(3, 32, 32\), and the model takes \(3, 16, 16\)"):
        open_checkpoint(path)
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config.json.*AutoImageProcessor"):
        open_checkpoint(path, IMAGES)


def test_what_is_no_image_is_refused_before_it_is_decoded() -> None:
    whole = png(picture(40, 40))
    with pytest.raises(ValueError, match="not an image"):
        uri(b"a text")
    with pytest.raises(ValueError, match="a broken image"):
        uri(whole[: len(whole) // 2])
    for name in ("TIFF", "EPS", "PPM"):  # formats that are not taken
        file = io.BytesIO()
        picture(8, 8).save(file, name)
        with pytest.raises(ValueError, match="not an image; known: PNG"):
            uri(file.getvalue())
    bomb = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(bomb, "PNG")  # 10 kB
    with pytest.raises(TooLarge, match="pixels"):
        uri(bomb.getvalue(), whole=False)
    with pytest.raises(TooLarge, match="at most 100 are taken"):
        uri(whole, most_bytes=100)
    for text in ("data:text/plain;base64,AAAA", "data:image/png,AAAA", "http://127.0.0.1/a.png", "/etc/passwd"):
        with pytest.raises(ValueError, match="base64"):
            bytes_of(text)
    truncated = f"data:image/png;base64,{base64.b64encode(whole[:-300]).decode()}"
    with pytest.raises(ValueError, match="a broken image"):
        decoded(truncated)


def test_a_jpeg_is_looked_at_whole() -> None:
    file = io.BytesIO()
    picture(64, 64).save(file, "JPEG")
    assert uri(file.getvalue()).startswith("data:image/jpeg;base64,")
    with pytest.raises(ValueError, match="a broken image"):
        uri(file.getvalue()[:-400])


def test_rows_from_files_folders_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("dark", "light")
    write_rows(tmp_path / "rows.csv", 6, seed=0)
    rows = read_rows(IMAGES, str(tmp_path / "rows.csv"), names=names)
    assert all(text.startswith("data:image/png;base64,") for text in rows.texts)
    monkeypatch.chdir(tmp_path.parent)
    again = read_rows(IMAGES, f"{tmp_path.name}/rows.csv", names=names)
    assert again.texts == rows.texts
    lines = [json.dumps({"image": text, "label": names[i]}) for text, i in zip(rows.texts, rows.gold, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert read_rows(IMAGES, str(tmp_path / "rows.jsonl"), names=names).texts == rows.texts
    import pyarrow
    import pyarrow.parquet

    cells = [{"bytes": bytes_of(text), "path": None} for text in rows.texts]
    table = pyarrow.table({"image": cells, "label": rows.gold})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert read_rows(IMAGES, str(tmp_path / "rows.parquet"), names=names).texts == rows.texts
    write_folder(tmp_path / "folder", 6, seed=0)
    folder = read_rows(IMAGES, str(tmp_path / "folder"), names=names)
    assert sorted(folder.texts) == sorted(rows.texts)
    assert folder.gold.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("none.png", "'none.png': No such file"),
        ("broken.png", "a broken image"),
        ("a.txt", "not an image"),
        ("", "path"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_named(cell: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png(picture(30, 30))[:-300])
    (tmp_path / "a.txt").write_text("a text")
    with (tmp_path / "rows.csv").open("w") as file:
        csv.writer(file).writerows([("image", "label"), (cell, "dark")])
    with pytest.raises(InputError, match=r"rows.csv, line 2: column 'image': .*") as error:
        read_rows(IMAGES, str(tmp_path / "rows.csv"), names=("dark", "light"))
    assert why in str(error.value)


def test_rows_of_images_go_the_way_of_rows_of_tokens(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, "vit")
    model, encoder = load(checkpoint, IMAGES).eval(), checkpoint.encoder()
    rows = encoder.ids([uri(png(picture(20, 20 + i))) for i in range(5)])
    assert [len(row) for row in rows] == [1] * 5
    assert collate(rows, 0)["pixel_values"].shape == (5, 3, 16, 16)

    def session(batch: dict) -> dict:
        with torch.inference_mode():
            return {"logits": model(torch.from_numpy(batch["pixel_values"])).logits.numpy()}

    together = run_rows(session, rows, 0, "logits", batch_size=2)
    apart = np.concatenate([session({"pixel_values": row})["logits"] for row in rows])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    text = uri(png(picture(200, 300)))
    assert decoded(encoder.small(text)).size == (16, 11)


def test_a_convolutional_net_is_not_cut() -> None:
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    with pytest.raises(InputError, match=r"pruning is not supported for 'resnet'.*supported: bert.*vit"):
        blocks(transformers.ResNetForImageClassification(config))
