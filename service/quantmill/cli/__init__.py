"""The command line: wires settings, services and use cases together, and decides nothing itself."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from typer.exceptions import TyperException
from typer.main import get_command

from quantmill.cli.app import app
from quantmill.cli.exits import INTERRUPTED_BY_TYPER, ExitCode, exit_code
from quantmill.cli.output import show_error
from quantmill.contract.errors import QuantmillError, RequestRejected, ResourceExhausted


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code; errors have been shown on stderr."""
    as_json = "--json" in arguments
    try:
        returned = get_command(app)(list(arguments), prog_name="quantmill", standalone_mode=False)
    except TyperException as error:
        return fail(RequestRejected(f"{error.format_message()} See `quantmill --help`."), as_json)
    except QuantmillError as error:
        return fail(error, as_json)
    except OSError as error:
        return fail(ResourceExhausted(str(error)), as_json)
    except Exception as error:  # our mistake: whoever reports it needs the whole story
        traceback.print_exc()
        return fail(QuantmillError(f"{type(error).__name__}: {error}"), as_json)
    return ExitCode.CANCELED if returned == INTERRUPTED_BY_TYPER else int(returned or ExitCode.DONE)


def fail(error: QuantmillError, as_json: bool) -> int:
    show_error(error, as_json)
    return exit_code(error)
