"""Every sample comes as often as any other, in batches of one bucket, and a step is the same whoever asks."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.toy import ToySample
from training.data_order import DataOrder

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)  # of buckets


def samples_of(own, *, prior=(), held_out=0):
    made = [ToySample((64 * bucket, 64)) for bucket, size in enumerate(own) for _ in range(size)]
    made += [ToySample((64 * bucket, 64), is_prior=True) for bucket, size in enumerate(prior) for _ in range(size)]
    return made + [ToySample((64, 64), is_held_out=True)] * held_out


def order_of(samples, *, batch_size=3, accumulate=1, drop_rate=0.0, seed=0):
    return DataOrder(samples, batch_size=batch_size, accumulate=accumulate, drop_rate=drop_rate, seed=seed)


def ids_of(order, steps):
    return [micro.ids for step in steps for micro in order.micro_batches(step)]


@settings(max_examples=40, deadline=None)
@given(own=SIZES, batch_size=st.integers(1, 5), seed=st.integers(0, 2**63 - 1), round_number=st.integers(0, 3))
def test_in_a_round_every_sample_comes_batch_size_times_in_batches_of_one_bucket(own, batch_size, seed, round_number):
    samples = samples_of(own, held_out=2)
    order = order_of(samples, batch_size=batch_size, seed=seed)
    batches = ids_of(order, range(round_number * sum(own), (round_number + 1) * sum(own)))
    assert all(len(ids) == batch_size and len({samples[i].bucket for i in ids}) == 1 for ids in batches)
    assert Counter(i for ids in batches for i in ids) == dict.fromkeys(range(sum(own)), batch_size)


@settings(max_examples=25, deadline=None)
@given(own=SIZES, batch_size=st.integers(1, 5), steps=st.integers(1, 40))
def test_at_any_moment_no_sample_of_a_bucket_is_ahead_of_another_by_more_than_one(own, batch_size, steps):
    samples = samples_of(own)
    seen = Counter(i for ids in ids_of(order_of(samples, batch_size=batch_size), range(steps)) for i in ids)
    for bucket in {sample.bucket for sample in samples}:
        counts = [seen[i] for i, sample in enumerate(samples) if sample.bucket == bucket]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=25, deadline=None)
@given(own=SIZES, steps=st.integers(1, 60))
def test_at_any_moment_each_bucket_has_had_about_its_share_of_batches(own, steps):
    samples = samples_of(own)
    batches = Counter(samples[ids[0]].bucket for ids in ids_of(order_of(samples), range(steps)))
    for bucket, size in enumerate(own):
        share = size / sum(own)
        assert abs(batches[(64 * bucket, 64)] - steps * share) <= 1 + len(own) * share


def test_a_step_is_the_same_whoever_asks_and_whatever_was_asked_before():
    samples = samples_of([5, 3], prior=[4])
    walked = order_of(samples, accumulate=2, drop_rate=0.4)
    steps = [walked.micro_batches(step) for step in range(30)]
    assert order_of(samples, accumulate=2, drop_rate=0.4).micro_batches(29) == steps[29]
    assert order_of(samples, accumulate=2, drop_rate=0.4, seed=1).micro_batches(29) != steps[29]


def test_accumulated_batches_are_the_same_walk_in_larger_steps():
    samples = samples_of([5, 3])
    assert ids_of(order_of(samples, accumulate=3), range(4)) == ids_of(order_of(samples), range(12))


def test_where_there_are_prior_samples_every_other_batch_is_of_them():
    samples = samples_of([5, 3], prior=[2, 7])
    kinds = [{samples[i].is_prior for i in ids} for ids in ids_of(order_of(samples), range(40))]
    assert kinds == [{False}, {True}] * 20


def test_what_is_held_out_is_never_learned_from():
    samples = [ToySample((64, 64), is_held_out=i % 2 == 0) for i in range(6)]
    assert {i for ids in ids_of(order_of(samples), range(20)) for i in ids} == {1, 3, 5}


def test_epochs_are_shuffled_anew():
    order = order_of(samples_of([6]), batch_size=6)
    epochs = ids_of(order, range(5))
    assert all(sorted(ids) == list(range(6)) for ids in epochs)
    assert len(set(epochs)) == 5


@pytest.mark.parametrize(("drop_rate", "least", "most"), [(0.0, 0, 0), (0.25, 0.2, 0.3)])
def test_the_share_without_words_is_the_recipes(drop_rate, least, most):
    order = order_of(samples_of([4]), batch_size=10, drop_rate=drop_rate)
    dropped = [is_wordless for step in range(150) for is_wordless in order.micro_batches(step)[0].without_words]
    assert least <= sum(dropped) / len(dropped) <= most


def test_a_dataset_with_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="nothing to learn"):
        order_of([ToySample((64, 64), is_held_out=True), ToySample((64, 64), is_prior=True)])
