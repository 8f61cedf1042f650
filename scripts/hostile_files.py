"""Makes hostile files, the same ones for the same seed, with a manifest that says what must come of each.

Everybody who opens what clients send is tried with them: each file must be refused in clear words or give a right
result, in bounded time and memory, without anything else being opened or called.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import hostile_pictures
import hostile_strangers
import hostile_videos
from hostile_bases import Bases
from hostile_draft import Must, Purpose, Whim
from hostile_pictures import Maker
from rich.console import Console
from rich.table import Table

KINDS: Mapping[str, Maker] = hostile_pictures.KINDS | hostile_strangers.KINDS | hostile_videos.KINDS
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One file of the manifest."""

    name: str
    kind: str
    purpose: Purpose
    must: Must


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    entries = make_files(args.folder, args.count, seed=args.seed, port=args.port)
    print_table(entries, args.folder)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where they and the manifest go")
    parser.add_argument("--count", type=int, default=300, help="how many (%(default)s); every kind in turn")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--port", type=int, default=9, help="what playlists point to on this machine (%(default)s)")
    return parser.parse_args(argv)


def make_files(folder: Path, count: int, *, seed: int, port: int) -> list[Entry]:
    """Writes so many of them, and the manifest."""
    bases, entries = Bases(), []
    for index, kind in enumerate(islice(_kinds_in_turn(), count)):
        turn = index // len(KINDS)
        draft = KINDS[kind](Whim(turn, random.Random(f"{seed}/{kind}/{turn}"), port), bases)
        name = f"{index:03}-{kind.replace(' ', '-').replace(',', '').lower()}.{draft.ending}"
        (folder / name).write_bytes(draft.data)
        entries.append(Entry(name, kind, draft.purpose, draft.must))
    manifest = {"seed": seed, "port": port, "files": [asdict(entry) for entry in entries]}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return entries


def _kinds_in_turn() -> Iterator[str]:
    while True:
        yield from KINDS


def print_table(entries: Sequence[Entry], folder: Path) -> None:
    counts = Counter(entry.kind for entry in entries)
    table = Table("kind", "files", "refused", "either", "kB", title=f"{len(entries)} hostile files in {folder}")
    for kind, num_files in counts.items():
        ours = [entry for entry in entries if entry.kind == kind]
        num_bytes = sum((folder / entry.name).stat().st_size for entry in ours)
        num_refused = sum(entry.must == "refused" for entry in ours)
        table.add_row(kind, *map(str, (num_files, num_refused, num_files - num_refused, num_bytes // 1_000)))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
