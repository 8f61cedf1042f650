"""The embedded MongoDB: nx-27017 on a Unix socket that only its owner reaches. Knows nothing of jobs.

Run as `python -m serving.embedded.mongo`. It speaks MongoDB's wire protocol over one SQLite file per database; the
operations it gets right are those of the contract suite.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from nx_27017.handler import NeoSQLiteHandler
from nx_27017.server import handle_client

log = logging.getLogger("darkroom.mongo")


async def serve(handler: NeoSQLiteHandler, socket_path: Path) -> None:
    """Answers on `socket_path` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle_client(reader, writer, handler)
        except asyncio.CancelledError:
            writer.close()  # the server is ending; asyncio would log a traceback for each connection

    server = await asyncio.start_unix_server(answer, socket_path)
    log.info("listening on %s", socket_path)
    await stop.wait()
    server.close()
    log.info("stopping")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="one SQLite file per database")
    parser.add_argument("--socket", type=Path, required=True, help="in a folder of mode 0700")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s")
    # At INFO it writes two lines for every command.
    logging.getLogger("nx_27017").setLevel(logging.WARNING)
    # Its library warns of every query that it does not answer in SQL alone.
    logging.getLogger("neosqlite").setLevel(logging.ERROR)
    os.umask(0o077)
    options.data_dir.mkdir(parents=True, exist_ok=True)
    # A killed predecessor leaves its socket behind, and bind() would refuse the name.
    options.socket.unlink(missing_ok=True)
    handler = NeoSQLiteHandler(data_dir=str(options.data_dir))
    try:
        # Leaving the loop cancels idle connections and waits for the threads that run commands.
        asyncio.run(serve(handler, options.socket))
    finally:
        handler.close_all()
        options.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
