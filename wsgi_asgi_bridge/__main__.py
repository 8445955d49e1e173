"""`python -m wsgi_asgi_bridge check package.module:app`: what kind of app that is, and how to serve
it.
"""

import argparse
import sys
from collections.abc import Sequence

from ._check import check

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. argparse exits with 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m wsgi_asgi_bridge")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "check",
        help="say whether an app is WSGI or ASGI, and how to serve it",
        description="Imports an app and says whether it is WSGI or ASGI, which servers run it as "
        "it is, and the lines that make it run on the others. Exit codes: 0 for an app, 1 for "
        "something else, 2 if it could not be imported.",
    )
    command.add_argument(
        "app", help="package.module:app, or package.module:factory() to call a factory"
    )
    result = check(parser.parse_args(arguments).app)
    stream = sys.stderr if result.code else sys.stdout
    stream.write(f"{result.text}\n")
    return result.code


if __name__ == "__main__":
    sys.exit(main())
