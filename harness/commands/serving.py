"""The command serve."""

from __future__ import annotations

import argparse

from harness.commands.common import SELECTION, refuse, selection, store
from harness.errors import HarnessError

HOST, PORT = "127.0.0.1", 8321


def serve(arguments: argparse.Namespace) -> int:
    """`harness serve`: shows the pages until Ctrl-C."""
    from harness.live.content import Pages
    from harness.live.server import Server

    if not arguments.experiment:
        refuse(arguments, SELECTION, "an EXPERIMENT, whose runs these options select")
    if arguments.port > 65535:
        raise HarnessError("no such port", where="--port", found=arguments.port, expected="0 to 65535")
    pages = Pages(store(arguments), selection(arguments) if arguments.experiment else None)
    with Server(pages, arguments.host, arguments.port) as server:
        print(f"{server.url} shows the runs below {pages.store.root}. Ctrl-C ends it.", flush=True)
        if not server.local:
            print("Everybody who can reach this address can read these results.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
