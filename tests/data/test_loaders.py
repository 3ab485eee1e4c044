from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from torch import Tensor

from lithydra.data.images import ImageFiles
from lithydra.data.loaders import EvaluationLoader, TrainingLoader, TrainingOrder
from lithydra.data.splits import FileSplit, Layout, TensorSplit

SIZES = (1, 3, 4, 100)  # of chunks, in batches


def make_split(num_images: int, channels_last: bool = False) -> TensorSplit:
    """Images 1x1x2 whose first pixel is their position; every second image of the storage belongs to the split."""
    number = torch.arange(2 * num_images, dtype=torch.uint8)
    storage = torch.stack([number // 2, number], dim=1).view(-1, *((1, 2, 1) if channels_last else (1, 1, 2)))
    return TensorSplit(number.long() % 5, torch.arange(0, 2 * num_images, 2), storage, Layout(channels_last))


class Numbers(ImageFiles):
    """The images of `make_split`, one at a time."""

    def __init__(self, split: TensorSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.storage)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.split.storage[index], int(self.split.labels[index])


def positions(loader: TrainingLoader) -> Iterator[list[int]]:
    """The positions in the split of each batch's images."""
    for chunk in loader:
        for batch in chunk.batches():
            yield batch.images[:, 0, 0, 0].tolist()


def make_loader(chunk: int = 1, seed: int = 0, num_images: int = 23, batch_size: int = 2) -> TrainingLoader:
    return TrainingLoader(make_split(num_images), TrainingOrder(num_images, batch_size, seed), chunk)


def test_permutation_is_a_function_of_seed_and_epoch() -> None:
    def permutation(seed: int, epoch: int) -> list[int]:
        order = TrainingOrder(100, 10, seed)
        order.set_epoch(epoch)
        return order.permutation(torch.device("cpu")).tolist()

    torch.manual_seed(1)
    first = permutation(0, 3)
    torch.manual_seed(2)
    assert permutation(0, 3) == first
    different = [permutation(seed, epoch) for seed in (0, 1, 2, 2**32 - 1) for epoch in (0, 1, 2)]
    assert len({tuple(p) for p in different}) == 12
    assert all(sorted(p) == list(range(100)) for p in different)


def test_drawing_the_order_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    list(positions(make_loader()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("chunk", SIZES)
def test_an_epoch_has_every_image_once_whatever_the_chunks(chunk: int) -> None:
    batches = list(positions(make_loader(chunk)))
    assert [len(batch) for batch in batches] == [2] * 11 + [1]
    assert sorted(chain.from_iterable(batches)) == list(range(23))
    assert batches == list(positions(make_loader(1)))


def test_batches_carry_labels_numbers_and_the_end_of_the_epoch() -> None:
    batches = [batch for chunk in make_loader(5) for batch in chunk.batches()]
    for batch in batches:
        assert batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64
        assert (batch.images[:, 0, 0, 1].long() % 5).equal(batch.labels)
    assert [batch.number for batch in batches] == list(range(1, 13))
    assert [batch.is_last for batch in batches] == [False] * 11 + [True]


def test_chunks_have_the_given_length_and_the_last_the_rest() -> None:
    loader = make_loader(5)
    assert [len(list(chunk.batches())) for chunk in loader] == [5, 5, 2]
    assert len(loader) == 3 and len(make_loader(4)) == 3 and len(make_loader(100)) == 1


@pytest.mark.parametrize("chunk", SIZES)
@pytest.mark.parametrize("taken", range(13))
def test_resumed_loader_gives_exactly_the_rest(chunk: int, taken: int) -> None:
    loader = make_loader(chunk)
    loader.sampler.set_epoch(2)
    whole = list(positions(make_epoch(2, chunk)))
    batches = positions(loader)
    before = [next(batches) for _ in range(taken)]
    resumed = make_loader(3)  # in chunks of another size
    resumed.load_state_dict(loader.state_dict())
    resumed.sampler.set_epoch(2)  # Lightning does, at the start of a resumed epoch too
    assert before + list(positions(resumed)) == whole


def make_epoch(epoch: int, chunk: int = 1) -> TrainingLoader:
    loader = make_loader(chunk)
    loader.sampler.set_epoch(epoch)
    return loader


def test_resumed_chunks_end_where_they_would_have_ended() -> None:
    loader = make_loader(5)
    loader.load_state_dict({"epoch": 0, "position": 7})
    assert [len(list(chunk.batches())) for chunk in loader] == [3, 2]


def test_next_epoch_starts_at_its_beginning() -> None:
    loader = make_loader(5)
    first = list(positions(loader))
    loader.sampler.set_epoch(1)
    second = list(positions(loader))
    assert len(second) == len(first) and second != first
    assert second == list(positions(make_epoch(1)))


def test_order_is_read_at_the_first_batch_not_at_iter() -> None:
    """Lightning calls iter() before it sets the epoch."""
    loader = make_loader(4)
    iterator = iter(loader)
    loader.sampler.set_epoch(1)
    chunk = next(iterator)
    assert [b.images[:, 0, 0, 0].tolist() for b in chunk.batches()] == list(positions(make_epoch(1)))[:4]


def test_chunk_of_one_batch_is_also_a_pair() -> None:
    """Whenever it is looked at, and without moving the order on."""
    expected = [(batch.images, batch.labels) for chunk in make_loader(1) for batch in chunk.batches()]
    loader = make_loader(1)
    for number, (chunk, (images, labels)) in enumerate(zip(loader, expected, strict=True)):
        if number % 2:
            assert torch.equal(chunk[0], images) and loader.sampler.position == number
        (batch,) = chunk.batches()
        assert torch.equal(batch.images, images) and loader.sampler.position == batch.number == number + 1
        assert all(map(torch.equal, chunk, (images, labels)))
    with pytest.raises(TypeError, match=r"2 batches: trainer\.steps_per_execution=1 gives them one by one"):
        images, labels = next(iter(make_loader(2)))


@pytest.mark.parametrize(("num_images", "batch_size", "world_size"), [(23, 6, 2), (23, 6, 3), (25, 6, 2), (25, 8, 4)])
def test_processes_divide_each_batch(num_images: int, batch_size: int, world_size: int) -> None:
    def batches(rank: int, world: int) -> list[list[int]]:
        order = TrainingOrder(num_images, batch_size, 0, rank, world)
        return list(positions(TrainingLoader(make_split(num_images), order, 2)))

    whole = batches(0, 1)
    shares = [batches(rank, world_size) for rank in range(world_size)]
    assert all(len(share) == len(whole) for share in shares)
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        if len(batch) >= world_size:
            assert sorted(chain.from_iterable(parts)) == sorted(batch)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:  # those without a share get all of it, at weight 0
            assert parts == [*([image] for image in batch), *[batch] * (world_size - len(batch))]


@pytest.mark.parametrize("accumulated", [1, 3, 4, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_batches", [None, 5])
def test_weights_make_a_step_the_mean_over_its_images(
    num_batches: int | None, world_size: int, accumulated: int
) -> None:
    """The gradient of an image's loss is, here, the image; DDP takes the mean over the processes."""
    num_images, batch_size = 47, 6
    whole = TrainingOrder(num_images, batch_size, 0).remaining_batches(torch.device("cpu"))[:num_batches]
    steps = [torch.cat(whole[start : start + accumulated]) for start in range(0, len(whole), accumulated)]
    found = torch.zeros(len(steps), dtype=torch.float64)
    for rank in range(world_size):
        order = TrainingOrder(num_images, batch_size, 0, rank, world_size, accumulated, num_batches)
        loader = TrainingLoader(make_split(num_images), order, 2)
        for batch in (batch for chunk in loader for batch in chunk.batches()):
            mean = batch.images[:, 0, 0, 0].double().mean()
            found[(batch.number - 1) // accumulated] += batch.weight * mean / world_size
    assert found == pytest.approx(torch.stack([step.double().mean() for step in steps]))


def test_a_single_process_without_accumulation_weighs_nothing() -> None:
    order = TrainingOrder(47, 6, 0)
    assert {order.weight(number) for number in range(1, 9)} == {1.0}


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_goes_in_order(channels_last: bool) -> None:
    loader = EvaluationLoader(make_split(23, channels_last), 10)
    assert len(loader) == 3
    for _ in range(2):
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [10, 10, 3]
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert images.shape == (23, 1, 1, 2)
        assert images[:, 0, 0, 0].tolist() == list(range(23))
        assert labels.tolist() == [2 * n % 5 for n in range(23)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_divide_the_evaluation(world_size: int) -> None:
    split = make_split(23)
    parts = [EvaluationLoader(split, 10, rank, world_size) for rank in range(world_size)]
    seen = [image.item() for part in parts for images, _ in part for image in images[:, 0, 0, 0]]
    assert sorted(seen) == list(range(23))


def test_a_process_without_an_evaluation_image_has_an_empty_batch() -> None:
    ((images, labels),) = EvaluationLoader(make_split(2), 10, rank=2, world_size=3)
    assert len(images) == len(labels) == 0


def test_channels_last_batches_are_equal_and_in_that_memory_format() -> None:
    storage = torch.randint(0, 256, (8, 3, 5, 4), dtype=torch.uint8)
    labels, rows = torch.arange(8), torch.tensor([6, 1, 3])
    (first,) = TensorSplit(labels, rows, storage).batches([torch.tensor([2, 0])])
    split = TensorSplit(labels, rows, storage.permute(0, 2, 3, 1).contiguous(), Layout(channels_last=True))
    (last,) = split.batches([torch.tensor([2, 0])])
    assert torch.equal(first[0], last[0]) and torch.equal(first[0], storage[[3, 6]])
    assert last[0].is_contiguous(memory_format=torch.channels_last) and first[0].is_contiguous()
    assert first[1].tolist() == last[1].tolist() == [3, 6]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_give_the_batches_of_the_memory(num_workers: int) -> None:
    memory = make_split(23)
    files = FileSplit(memory.labels, memory.indices, Numbers(memory), num_workers)
    for start in (0, 7):
        loaders = [TrainingLoader(split, TrainingOrder(23, 2, 0), 5) for split in (memory, files)]
        for loader in loaders:
            loader.load_state_dict({"epoch": 1, "position": start})
        expected, found = ([batch for chunk in loader for batch in chunk.batches()] for loader in loaders)
        assert len(found) == len(expected) == 12 - start
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
            assert torch.equal(a.positions, b.positions) and a[2:-1] == b[2:-1]
    expected, found = (list(EvaluationLoader(split, 10)) for split in (memory, files))
    assert all(torch.equal(x, y) for a, b in zip(expected, found, strict=True) for x, y in zip(a, b, strict=True))


def test_workers_leave_the_global_generator_alone() -> None:
    memory = make_split(10)
    files = FileSplit(memory.labels, memory.indices, Numbers(memory), 0)
    state = torch.get_rng_state()
    list(EvaluationLoader(files, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_files_are_relabelled_as_the_split_says() -> None:
    """`data.classes` gives a split labels of its own, which are not those of the files."""
    memory = make_split(10)
    labels = torch.where(memory.labels == 2, 0, 1)
    files = FileSplit(labels, memory.indices, Numbers(memory), 0)
    found = torch.cat([batch_labels for _, batch_labels in EvaluationLoader(files, 4)])
    assert torch.equal(found, labels[memory.indices])
