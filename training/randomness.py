"""Chance by address: the same seed, stream and counters give the same numbers, whatever was drawn before.

So a training that goes on in another process has nothing to restore. Knows nothing of what the numbers are for.
"""

import hashlib

import torch


def generator(seed: int, stream: str, *counters: int) -> torch.Generator:
    """A generator on the CPU, whose numbers are the same for every device."""
    return torch.Generator().manual_seed(_digest(seed, stream, counters))


def permutation(count: int, seed: int, stream: str, *counters: int) -> list[int]:
    """The numbers below `count`, shuffled."""
    order: list[int] = torch.randperm(count, generator=generator(seed, stream, *counters)).tolist()
    return order


def seed_libraries(seed: int, stream: str, *counters: int) -> None:
    """For draws that libraries take from torch's own generators: first weights, dropout."""
    torch.manual_seed(_digest(seed, stream, counters))


def _digest(seed: int, stream: str, counters: tuple[int, ...]) -> int:
    address = "/".join((str(seed), stream, *map(str, counters)))
    return int.from_bytes(hashlib.sha256(address.encode()).digest()[:8], "little")
