"""Labels belong to their inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import Attack
from river_cases import CLASSES, STEADY, part_of, samples, told, write_cache
from torch.utils.data import DataLoader

from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import MismatchError
from pipeline.reader import Reader, collate
from pipeline.store.mapped import LabelCache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LabelCache:
    """What a teacher that answers f(id) said of `samples()`, in three shards."""
    return write_cache(tmp_path_factory.mktemp("belonging") / "cache", samples())


@pytest.mark.promise("P7", tries=100, torture=1000)
def test_every_row_comes_with_what_the_teacher_said_of_its_id(cache: LabelCache, attack: Attack) -> None:
    """Law: of any subset in any order, any rows, repeated or not: soft labels are f(id); strangers are refused."""

    @settings(STEADY, max_examples=attack.planned)
    @given(data=st.data())
    def law(data: st.DataObject) -> None:
        everything = samples()
        kept = data.draw(st.lists(st.integers(0, len(everything) - 1), min_size=1, unique=True))
        dataset = part_of(everything, np.array(kept))
        rows = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=40))
        stranger = data.draw(st.integers(10 * len(everything), 2**62))
        with attack.attempt((kept, rows)):
            batch = Reader(dataset, cache).__getitems__(rows)
            assert torch.equal(batch.soft.logits_NC, told(dataset.ids[rows]))
            assert torch.equal(batch.inputs_NX, torch.from_numpy(dataset.array[rows]))
            ids = np.append(dataset.ids[1:], stranger)
            with pytest.raises(MismatchError, match=f"has no labels for 1 of the samples asked for: {stranger}"):
                Reader(ArrayDataset(dataset.array, ids, dataset.labels, CLASSES), cache)

    law()
    attack.assert_kept(at_least=attack.planned)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores: they can wait
@pytest.mark.promise("P7", tries=3, torture=40)
def test_workers_of_a_loader_give_every_sample_its_own_labels(cache: LabelCache, attack: Attack) -> None:
    """Law: shuffled, for any batch size and number of workers, each sample once, with f(id)."""
    dataset = samples()
    for number, dice in attack.tries():
        torch.manual_seed(number)
        loader = DataLoader(
            Reader(dataset, cache),
            batch_size=dice.randrange(1, 12),
            shuffle=True,
            num_workers=dice.randrange(4),
            collate_fn=collate,
        )
        with attack.attempt(number):
            batches = list(loader)
            rows = np.concatenate([batch.rows for batch in batches])
            assert sorted(rows.tolist()) == list(range(len(dataset)))
            assert torch.equal(torch.cat([batch.soft.logits_NC for batch in batches]), told(dataset.ids[rows]))
    attack.assert_kept()


@pytest.mark.promise("P7", tries=50, torture=1000)
def test_content_that_changed_under_the_same_ids_is_caught(cache: LabelCache, attack: Attack) -> None:
    """Law: one bit of any input, or any two inputs that changed places: the checksum refuses the batch they are in."""
    dataset = samples()
    for number, dice in attack.tries():
        array, one = dataset.array.copy(), dice.randrange(len(dataset))
        other = (one + dice.randrange(1, len(dataset))) % len(dataset)
        if number % 2:
            array[[one, other]] = array[[other, one]]
        else:
            array[one].reshape(-1).view(np.uint8)[dice.randrange(64)] ^= 1 << dice.randrange(8)
        with attack.attempt(number), pytest.raises(MismatchError, match="are not the ones the teacher saw"):
            Reader(ArrayDataset(array, dataset.ids, dataset.labels, CLASSES), cache).__getitems__([other, one])
    attack.assert_kept(at_least=attack.planned)
