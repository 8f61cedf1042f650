"""The same address gives the same numbers, on every machine and whatever was drawn before."""

import torch

from training.randomness import generator, permutation, seed_libraries


def test_the_same_address_gives_the_same_numbers_whatever_was_drawn_before():
    first = torch.randn(8, generator=generator(1, "step", 3, 0))
    torch.randn(1_000)
    torch.randn(5, generator=generator(1, "step", 2, 0))
    assert torch.equal(torch.randn(8, generator=generator(1, "step", 3, 0)), first)


def test_another_seed_stream_or_counter_gives_other_numbers():
    addresses = [(1, "step", 3, 0), (2, "step", 3, 0), (1, "words", 3, 0), (1, "step", 4, 0), (1, "step", 3, 1)]
    # Run together these would be the same text.
    addresses += [(1, "step", 30), (13, "step", 0), (1, "step", 3)]
    drawn = {tuple(torch.rand(2, generator=generator(*address)).tolist()) for address in addresses}
    assert len(drawn) == len(addresses)


def test_numbers_are_those_of_every_machine_and_version():
    assert torch.rand(2, generator=generator(2**63 - 1, "step", 7)).tolist() == [0.5030110478401184, 0.8333356380462646]
    assert permutation(6, 0, "order", 1) == [5, 0, 2, 4, 3, 1]


def test_a_permutation_has_every_number_once_and_differs_by_counter():
    shuffled = [permutation(50, 9, "order", epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in shuffled)
    assert shuffled[0] != shuffled[1] != shuffled[2]


def test_what_libraries_draw_is_decided_too():
    seed_libraries(3, "dropout", 1)
    first = torch.rand(4)
    torch.rand(9)
    seed_libraries(3, "dropout", 1)
    assert torch.equal(torch.rand(4), first)
