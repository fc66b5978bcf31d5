"""A user's own transforms that need a library: `own_sequences:NAME`."""

import kornia.augmentation as augment


def crop_and_turn() -> augment.AugmentationSequential:
    """Crops and turns of chance."""
    return augment.AugmentationSequential(
        augment.RandomHorizontalFlip(), augment.RandomCrop((8, 8), padding=2), augment.RandomAffine(10.0, p=0.5)
    )


def one_of_two() -> augment.ImageSequential:
    """Mirrored or turned over: one of both, by chance."""
    return augment.ImageSequential(
        augment.RandomHorizontalFlip(p=1.0), augment.RandomVerticalFlip(p=1.0), random_apply=1
    )
