"""Run the Hub as a process: prints its endpoint on one line, ends when its stdin closes."""

import argparse
import sys
from pathlib import Path

from .server import HubServer


def main() -> None:
    parser = argparse.ArgumentParser(prog="hub_server", description=__doc__)
    parser.add_argument("--root", type=Path, help="folder for contents (default: temporary)")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    options = parser.parse_args()
    with HubServer(options.root, options.port) as server:
        print(server.endpoint, flush=True)
        sys.stdin.read()


main()
