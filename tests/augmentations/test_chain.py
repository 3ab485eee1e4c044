import torch
from torch import Tensor, nn

from augmenting import SHAPE, batch, build
from lithydra.augmentations.chain import Chain
from lithydra.augmentations.transforms import AlternatingFlip


class Add(nn.Module):
    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images + 0.25, labels


class Halve(nn.Module):
    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images / 2, labels + 1


def test_parts_follow_each_other_in_the_order_given() -> None:
    images, labels = torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 1])
    assert Chain([Add(), Halve()])(images, labels)[0].unique().item() == 0.375
    assert Chain([Halve(), Add()])(images, labels)[0].unique().item() == 0.5
    assert Chain([Halve(), Halve()])(images, labels)[1].tolist() == [2, 3]


def test_an_empty_chain_leaves_a_batch_as_it_is() -> None:
    images, labels = torch.randint(256, (2, *SHAPE), dtype=torch.uint8), torch.tensor([0, 1])
    same_images, same_labels = Chain()(images, labels)
    assert same_images is images and same_labels is labels


def test_parts_get_float_images_in_0_to_1() -> None:
    images, labels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), torch.zeros(3).long()
    augmented, _ = Chain([Add()])(images, labels)
    torch.testing.assert_close(augmented.flatten(), torch.tensor([0.25, 0.45, 1.25]))
    assert images.flatten().tolist() == [0, 51, 255]


def test_parts_that_ask_for_it_are_told_the_position() -> None:
    told = AlternatingFlip(SHAPE, 4)
    chain = Chain([Add(), told, Halve()])
    images, labels = batch(64)
    for epoch in (0, 1):
        chain.set_position(epoch, torch.arange(64))
        mirrored = (chain(images, labels)[0] == (images.flip(3) + 0.25) / 2).all(dim=(1, 2, 3))
        assert torch.equal(mirrored, told.flipped) and 0 < mirrored.sum() < 64


def test_mixup_after_cutmix_gives_probabilities() -> None:
    images, labels = torch.rand(8, *SHAPE), torch.arange(8) % 4
    torch.manual_seed(0)
    mixed, probabilities = Chain([build("cutmix"), build("mixup", alpha=1.0)])(images, labels)
    assert mixed.shape == images.shape and mixed.min() >= 0 and mixed.max() <= 1
    assert probabilities.shape == (8, 4) and probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(1), torch.ones(8))
    assert ((probabilities > 0).sum(1) > 2).any()  # of three images and more


def test_all_that_leave_the_labels_go_into_one_chain() -> None:
    names = ("alternating_flip", "shift", "affine", "rand_augment", "trivial_augment", "cutout", "random_erasing")
    images, labels = torch.randint(256, (8, *SHAPE), dtype=torch.uint8), torch.arange(8) % 4
    chain = Chain([build(name) for name in names])
    chain.set_position(0, torch.arange(8))
    augmented, same = chain(images, labels)
    assert augmented.dtype == torch.float32 and augmented.shape == images.shape and torch.equal(same, labels)
    assert augmented.min() >= 0 and augmented.max() <= 1 + 1e-6
