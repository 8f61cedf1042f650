"""Kills, freezes, fills and cuts off every part of a Darkroom under load, and proves that nothing accepted is lost.

Starts a server of its own in a temporary folder (with --external also a MongoDB and an S3, each behind a proxy that can
misbehave), makes the right pixels with plain diffusers, then runs rounds: clients of two tenants order pictures while
something breaks. After each round every accepted job must have one outcome, every success one picture with the pixels
its seed demands, every end one webhook with a true signature. Exit status 1 when anything is lost, doubled or
otherwise wrong, 2 when the server or the suite itself gave up.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import chaos_table
from chaos_faults import Fault, Topology, all_faults
from chaos_pictures import draw_requests, make_pixels
from chaos_rounds import Campaign, RoundReport, plan_rounds
from chaos_server import CONFIG, DarkroomUnderTest, ServerTrouble
from chaos_stores import GIVEN, GivenStores, OwnStores, StoreTrouble

MIN_PICTURES, MAX_PICTURES, ORDERS_A_PICTURE = 6, 40, 5
SETUP_TIMEOUT_S, ROUND_TIMEOUT_S = 600, 600


class Stopped(Exception):
    """The run was called off, or as a whole has taken longer than it may."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    home = Path(tempfile.mkdtemp(prefix="darkroom-chaos-"))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(signum, _stop)
    signal.alarm(SETUP_TIMEOUT_S + ROUND_TIMEOUT_S * args.rounds)
    reports: list[RoundReport] = []
    last: RoundReport | None = None
    problem: Exception | None = None
    try:
        last = run(args, home, reports)
    except (ServerTrouble, StoreTrouble, Stopped) as error:
        problem = error
    finally:
        signal.alarm(0)
        report(args, reports, last)
    is_clean = problem is None and not any(r.findings for r in (*reports, *filter(None, [last])))
    if problem is not None:
        print(f"given up: {problem}", file=sys.stderr)
    if is_clean and not args.keep:
        shutil.rmtree(home, ignore_errors=True)
    else:
        print(f"journal and logs: {home}")
    return 2 if problem is not None else 0 if is_clean else 1


def run(args: argparse.Namespace, home: Path, reports: list[RoundReport]) -> RoundReport:
    """All rounds; what has been reported so far is in `reports` even if it breaks off."""
    rng = random.Random(args.seed)
    say("making the right pixels with plain diffusers")
    num_pictures = min(MAX_PICTURES, max(MIN_PICTURES, args.jobs // ORDERS_A_PICTURE))
    pictures = make_pixels(draw_requests(rng, num_pictures))
    stores = choose_stores(args, home)
    server = DarkroomUnderTest(home, stores)
    try:
        server.prepare()
        faults = choose_faults(args, server)
        plans = plan_rounds(
            rng,
            faults,
            num_rounds=args.rounds,
            num_orders=args.jobs,
            pair_chance=args.pairs,
            is_in_order=args.in_order,
        )
        if stores is not None:
            stores.start()
        say("starting Darkroom")
        server.start()
        server.wait_ready()
        campaign = Campaign(server, home / "journal.jsonl", pictures, faults=faults, rng=rng, window_s=args.window)
        try:
            for number, plan in enumerate(plans, start=1):
                reports.append(campaign.run_round(number, plan))
                say("  ".join(chaos_table.row_of(reports[-1])))
            return campaign.judge_whole(len(plans) + 1)
        finally:
            campaign.close()
    finally:
        clean_up(server, stores)


def choose_stores(args: argparse.Namespace, home: Path) -> OwnStores | GivenStores | None:
    """None: those that `darkroom serve` embeds."""
    if not args.external:
        return None
    return GivenStores(os.environ) if any(name in os.environ for name in GIVEN) else OwnStores(home)


def choose_faults(args: argparse.Namespace, server: DarkroomUnderTest) -> Mapping[str, Fault]:
    """The faults asked for that can be done here; says which are left out and why."""
    topology: Topology = "external" if args.external else "embedded"
    known = all_faults(lease_s=float(CONFIG["jobs"]["lease_s"]))
    chosen: dict[str, Fault] = {}
    for name in args.faults or [name for name, fault in known.items() if topology in fault.topologies]:
        reason = (
            f"not with {topology} stores" if topology not in known[name].topologies else known[name].why_not(server)
        )
        if reason is None:
            chosen[name] = known[name]
        else:
            say(f"left out: {name}: {reason}")
    if not chosen:
        raise ServerTrouble("none of these faults can be done here")
    return chosen


def clean_up(server: DarkroomUnderTest, stores: OwnStores | GivenStores | None) -> None:
    """Whatever happened: no process, no mount and no frozen process is left."""
    try:
        server.clean_up()
    finally:
        if stores is not None:
            stores.clean_up()


def report(args: argparse.Namespace, reports: Sequence[RoundReport], last: RoundReport | None) -> None:
    chaos_table.show(reports, last)
    if args.markdown is not None:
        args.markdown.write_text(chaos_table.markdown(reports), "utf-8")
    if args.json is not None:
        arguments = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
        chaos_table.write_json(args.json, reports, last, arguments=arguments)


def say(text: str) -> None:
    print(text, flush=True)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=_at_least(1), default=30, help="how often something breaks")
    parser.add_argument("--jobs", type=_at_least(1), default=2_000, help="orders in all rounds together")
    parser.add_argument("--seed", type=int, default=0, help="of orders, faults and moments")
    parser.add_argument("--faults", type=_names, help="some of: " + ", ".join(all_faults(lease_s=1.0)))
    parser.add_argument("--in-order", action="store_true", help="the faults as they are named, not at random")
    parser.add_argument("--pairs", type=float, default=0.25, help="chance that a round gets two faults at once")
    parser.add_argument("--window", type=float, default=12.0, help="seconds in which a round's orders are sent")
    parser.add_argument(
        "--external",
        action="store_true",
        help="stores that Darkroom does not watch: those of DARKROOM_MONGO_URL and DARKROOM_S3_*, else the suite's own",
    )
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--markdown", type=Path, help="where the table goes")
    parser.add_argument("--keep", action="store_true", help="keep journal and logs of a clean run too")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    known = all_faults(lease_s=1.0)
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no fault {name!r}; there are {', '.join(known)}")
    return names


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return parse


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    # Once: cleaning up must not be broken off.
    for again in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(again, signal.SIG_IGN)
    raise Stopped("it took longer than all its rounds may" if signum == signal.SIGALRM else "called off")


if __name__ == "__main__":
    sys.exit(main())
