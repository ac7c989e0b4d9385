"""`python -m sdv2live`. Owns: the order of a start: Python's version, the dependencies, the command line.

This file has to be readable by Pythons that are too old to read the others, so that they get one
sentence and no traceback.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the very check that a too old Python must reach
    sys.stderr.write(
        "sdv2live needs Python 3.11 or newer, and %s is Python %d.%d; install a newer Python "  # noqa: UP031
        "and start sdv2live with it.\n" % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
    raise SystemExit(2)

from sdv2live import bootstrap


def main() -> int:
    """Run the command line given to this process and return its exit code."""
    arguments = sys.argv[1:]
    bootstrap.ensure(arguments)
    if arguments[:1] == ["test"]:
        return bootstrap.run_tests(arguments[1:])
    from sdv2live import cli  # only now: its own imports may need what was just installed

    return cli.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
