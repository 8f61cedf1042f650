"""Frames woven of two fields → frames of one moment, with FFmpeg's bwdif."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, TypeVar

from av.filter import Graph

Frame = Any  # av.VideoFrame
T = TypeVar("T")
ANY_CLOCK = Fraction(1, 1_000)  # the last frames of a stream come without one, and only their order matters here


def with_neighbours(things: Iterable[T]) -> Iterator[tuple[T, T, T]]:
    """Each one between the one before and the one after it; at the ends it is its own neighbour."""
    before: T | None = None
    current: T | None = None
    for after in things:
        if current is not None:
            yield before or current, current, after
        before, current = current, after
    if current is not None:
        yield before or current, current, current


def deinterlaced(before: Frame, frame: Frame, after: Frame) -> Frame:
    """The frame at the moment of its first field; the missing lines come from its neighbours where nothing moved.

    A graph of its own for every frame: only the few that are wanted pay, and none can be delayed or mixed up.
    """
    if not (_alike(before, frame) and _alike(after, frame)):
        before = after = frame
    graph = Graph()
    size = {"width": frame.width, "height": frame.height}
    source = graph.add_buffer(**size, format=frame.format, time_base=frame.time_base or ANY_CLOCK)
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:parity=auto:deint=all"), sink).configure()
    for neighbour in (before, frame, after):
        graph.push(neighbour)
    graph.push(None)
    sink.pull()
    woven_out = sink.pull()
    woven_out.pts = frame.pts
    return woven_out


def _alike(one: Frame, other: Frame) -> bool:
    return (one.width, one.height, one.format.name) == (other.width, other.height, other.format.name)
