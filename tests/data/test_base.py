import logging
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lithydra.data.images import decode, resize_all
from lithydra.data.splits import Layout, Split, TensorSplit, moved
from lithydra.errors import ConfigError
from toy_data import Files, Toy, ToyFiles, ToyFilesWithVal, ToyWithVal


def load(kind: type[Toy] = Toy, **changes: Any) -> Toy:
    settings = {"name": "toy", "seed": 0, "batch_size": 10, "eval_batch_size": 64, "val_fraction": 0.2}
    module = kind(**{**settings, **changes})
    module.load()
    return module


def content(split: Split | None) -> tuple[Tensor, Tensor]:
    """Images and labels of a split, in its order."""
    assert isinstance(split, TensorSplit)
    return next(split.batches([torch.arange(len(split))]))


def numbers(split: Split | None) -> list[int]:
    corner = content(split)[0][:, :, 0, 0].long()
    return (256 * corner[:, 0] + corner[:, 1]).tolist()


def counts(split: Split | None) -> list[int]:
    return content(split)[1].bincount().tolist()


def test_images_keep_their_labels_and_splits() -> None:
    module = load()
    for split in (module.train, module.val, module.test):
        images, labels = content(split)
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 4, 6) == module.image_shape
        assert labels.dtype == torch.int64 and torch.equal(images[:, 2, 0, 0].long(), labels)
    assert sorted(numbers(module.train) + numbers(module.val)) == list(range(200))
    assert numbers(module.test) == list(range(500, 520))


def test_validation_has_the_class_proportions_of_the_training_split() -> None:
    module = load()
    assert (counts(module.train), counts(module.val)) == ([80, 48, 32], [20, 12, 8])


def test_split_is_a_function_of_the_seed() -> None:
    first, again, other = (numbers(load(seed=seed).val) for seed in (0, 0, 1))
    assert first == again != other


def test_without_validation_all_images_are_trained_on() -> None:
    module = load(val_fraction=0)
    assert module.val is None and len(numbers(module.train)) == 200
    assert module.val_dataloader() == []


def test_folds_divide_the_training_split() -> None:
    modules = [load(num_folds=5, fold=fold) for fold in range(5)]
    parts = [numbers(module.val) for module in modules]
    assert sorted(chain.from_iterable(parts)) == list(range(200))
    for module, part in zip(modules, parts, strict=True):
        assert counts(module.val) == [20, 12, 8]
        assert sorted(numbers(module.train) + part) == list(range(200))
        assert numbers(module.test) == list(range(500, 520))
    assert numbers(load(num_folds=5, seed=1).val) != parts[0]


@pytest.mark.parametrize("changes", [{}, {"limit": 100}, {"seed": 3}])
def test_validation_split_of_the_data_is_used_whole(changes: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lithydra"):
        module = load(ToyWithVal, **changes)
    assert numbers(module.val) == list(range(1000, 1020)) and numbers(module.test) == list(range(500, 520))
    assert len(numbers(module.train)) == changes.get("limit", 200) and max(numbers(module.train)) < 200
    assert caplog.messages == ["toy has a validation split of its own, 20 images; data.val_fraction=0.2 does not apply"]
    assert (module.facts()["num_train"], module.facts()["num_val"]) == (changes.get("limit", 200), 20)


def test_own_validation_split_follows_the_choice_of_classes() -> None:
    module = load(ToyWithVal, classes=[2, 0])
    images, labels = content(module.val)
    assert torch.equal(images[:, 2, 0, 0].long(), torch.tensor([2, 0])[labels]) and counts(module.val) == [4, 10]


def test_own_validation_split_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lithydra"):
        module = load(ToyWithVal, val_fraction=0)
    assert module.val is None and len(numbers(module.train)) == 200
    assert "20 images, and data.val_fraction=0 leaves them out: there is no validation" in caplog.text


def test_classes_are_kept_and_relabelled_in_the_order_given() -> None:
    module = load(classes=[2, 0])
    assert module.num_classes == 2 and module.names == ("c", "a")
    for split in (module.train, module.val, module.test):
        images, labels = content(split)
        assert torch.equal(images[:, 2, 0, 0].long(), torch.tensor([2, 0])[labels])
    assert (counts(module.train), counts(module.val), counts(module.test)) == ([32, 80], [8, 20], [4, 10])


def test_limit_takes_a_stratified_part_of_the_training_images() -> None:
    for limit in (100, 0.5):
        module = load(limit=limit)
        train, val = counts(module.train), counts(module.val)
        assert [a + b for a, b in zip(train, val, strict=True)] == [50, 30, 20] and val == [10, 6, 4]
        assert numbers(module.test) == list(range(500, 520))
    assert len(numbers(load(limit=200).train)) == 160
    assert numbers(load(limit=100, seed=0).train) != numbers(load(limit=100, seed=1).train)


def test_limit_counts_after_the_choice_of_classes() -> None:
    module = load(limit=70, classes=[0, 2], val_fraction=0)
    assert counts(module.train) == [50, 20]


def test_image_size_resizes_every_split() -> None:
    module = load(image_size=8)
    assert module.image_shape == (3, 8, 8)
    for split in (module.train, module.val, module.test):
        images, _ = content(split)
        assert images.shape[1:] == (3, 8, 8) and images.dtype == torch.uint8
    assert load(image_size=4).image_shape == (3, 4, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_resized_images_are_those_that_predict_makes_of_files(
    tmp_path: Path, shape: tuple[int, int], channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape, channels), dtype=np.uint8)
    for i, image in enumerate(pixels):
        path = tmp_path / f"{i}.png"
        Image.fromarray(image.squeeze()).save(path)
        expected = decode(path, channels=channels, image_size=3).reshape(3, 3, channels)
        np.testing.assert_allclose(resize_all(pixels, 3)[i].astype(int), expected, atol=int(shape[0] == shape[1]))


@pytest.mark.parametrize("changes", [{}, {"image_size": 8}, {"classes": [1, 0]}])
def test_memory_format_changes_no_image(changes: dict[str, Any]) -> None:
    first = load(**changes)
    last = Toy(name="toy", seed=0, batch_size=10, eval_batch_size=64, val_fraction=0.2, **changes)
    last.load(Layout(channels_last=True))
    assert first.image_shape == last.image_shape
    for a, b in ((first.train, last.train), (first.val, last.val), (first.test, last.test)):
        assert torch.equal(content(a)[0], content(b)[0]) and torch.equal(content(a)[1], content(b)[1])
    assert torch.equal(first.pixels(), last.pixels())
    batches = [next(next(iter(module.train_dataloader())).batches()) for module in (first, last)]
    assert torch.equal(batches[0].images, batches[1].images)
    assert batches[1].images.is_contiguous(memory_format=torch.channels_last)


def test_statistics_come_from_the_training_part_alone() -> None:
    module = load()
    assert torch.equal(module.pixels(), content(module.train)[0])
    assert len(module.pixels()) == 160


def test_facts_describe_the_data() -> None:
    facts = load(classes=[1, 2], limit=50, image_size=5).facts()
    assert 0.4 < facts.pop("mean_pixel") < 0.6  # of noise
    expected = {"name": "toy", "class_names": ["b", "c"], "image_shape": [3, 5, 5]}
    assert facts == expected | {"num_train": 40, "num_val": 10, "num_test": 10}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 161}, "data.batch_size=161: larger than the 160 training images of toy"),
        ({"classes": [0, 3]}, "data.classes=[0, 3]: toy has classes 0 to 2"),
        ({"limit": 201}, "data.limit=201: toy has 200 training images"),
        ({"limit": 2}, "data.limit=2: 200 images do not divide so"),
        ({"val_fraction": 0.005}, "data.val_fraction=0.005: 200 images do not divide so"),
        ({"val_fraction": 0.999}, "data.val_fraction=0.999: 200 images do not divide so"),
        ({"num_folds": 201}, "data.num_folds=201"),
    ],
)
def test_what_the_data_cannot_give_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**changes)
    assert str(caught.value).startswith(message)


def test_folds_beside_an_own_validation_split_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^data\.num_folds=5: toy has a validation split of its own, 20 images; cross"
    ):
        load(ToyWithVal, num_folds=5)


@pytest.mark.parametrize("kind", [Toy, ToyFiles])
def test_images_too_large_for_the_memory_are_refused(kind: type[Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "image_size", 1000000)
    with pytest.raises(ConfigError) as caught:
        load(kind, image_size=1000000)
    message = (
        r"data\.image_size=1000000: [\d,]+ images of 3x1000000x1000000 at a time: needs .* GiB of memory, and .* free"
    )
    assert re.fullmatch(message, str(caught.value))


def test_images_are_moved_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen, real = load(), list[int](), Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda tensor, device: seen.append(tensor.ndim) or real(tensor, device))
    train, *_ = moved((module.train, module.val, module.test), torch.device("meta"))
    assert seen.count(4) == 2  # the storage of training and validation, and that of the test images
    assert isinstance(train, TensorSplit) and train.storage.is_meta


def test_batch_size_may_be_all_images() -> None:
    assert load(batch_size=160).num_training_batches == 1


def test_loaders_hand_out_the_splits() -> None:
    module = load()
    module.steps_per_execution = 3
    seen = [batch.images for chunk in module.train_dataloader() for batch in chunk.batches()]
    assert len(seen) == module.num_training_batches == 16 and len(module.train_dataloader()) == 6
    corner = torch.cat(seen)[:, :, 0, 0].long()
    assert sorted((256 * corner[:, 0] + corner[:, 1]).tolist()) == sorted(numbers(module.train))
    for loader, split in ((module.val_dataloader(), module.val), (module.test_dataloader(), module.test)):
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert torch.equal(images, content(split)[0]) and torch.equal(labels, content(split)[1])


@pytest.mark.parametrize("changes", [{}, {"classes": [2, 0]}, {"limit": 50, "seed": 3}, {"num_folds": 4, "fold": 3}])
@pytest.mark.parametrize("kinds", [(Toy, ToyFiles), (ToyWithVal, ToyFilesWithVal)], ids=["divided", "own validation"])
def test_files_give_what_the_memory_gives(kinds: tuple[type[Toy], type[Toy]], changes: dict[str, Any]) -> None:
    if kinds[0] is ToyWithVal:
        changes = {key: value for key, value in changes.items() if "fold" not in key}
    memory, files = (load(kind, **changes) for kind in kinds)
    assert memory.facts() | {"image_shape": [3, 4, 4]} == files.facts()
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        expected, found = getattr(memory, name)(), getattr(files, name)()
        if name == "train_dataloader":
            expected, found = ([b for chunk in loader for b in chunk.batches()] for loader in (expected, found))
        expected, found = list(expected), list(found)
        assert len(expected) == len(found)
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_statistics_of_files_are_of_training_images() -> None:
    module = load(ToyFiles)
    pixels = module.pixels()
    corner = pixels[:, :, 0, 0].long()
    assert sorted((256 * corner[:, 0] + corner[:, 1]).tolist()) == sorted(numbers(load().train))
