"""The console script, megjax COMMAND --flags."""

import importlib
import sys

COMMANDS = {
    "train": "megjax.commands.train",
    "sample": "megjax.commands.sample",
    "evaluate": "megjax.commands.evaluate",
    "report": "megjax.commands.report",
    "prepare": "megjax.data.prepare",
    "export": "megjax.commands.export",
}


def main() -> None:
    """Runs the command that the first argument names; exits with its status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help", "help"):
        print(f"usage: megjax {'|'.join(COMMANDS)} [--help] [--flag=value ...]")
        raise SystemExit(0 if name else 2)
    if name == "--version":
        print(importlib.import_module("megjax").__version__)
        return
    if name not in COMMANDS:
        print(
            f"error: megjax has no command {name!r}: give one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    sys.argv[:2] = [f"megjax {name}"]
    importlib.import_module(COMMANDS[name]).run()


if __name__ == "__main__":
    main()
