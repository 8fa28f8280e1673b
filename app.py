"""RAM Demo: settings -> services -> interface -> launch. Run it with `make demo`, or `python app.py`."""

import os
import sys

from ram_demo.errors import UserError
from ram_demo.settings import from_environment


def main() -> int:
    """Open the page and serve it until interrupted. Returns the exit code."""
    try:
        settings = from_environment()
        from ram_demo.runs import Runs
        from ram_demo.training.jobs import Jobs
        from ram_demo.ui import layout
        from ram_demo.votes import VoteStore
        from ram_demo.workbench import Opening

        store = VoteStore(settings.database_url, settings.network_volume)
        opening = Opening(settings)  # last: its thread loads for seconds, and nothing may fail beside it
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    jobs = Jobs(settings)
    jobs.watch()
    page = layout.build(settings, opening, Runs(opening, store), jobs)
    has_screen = bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in ("darwin", "win32")
    )
    page.queue(max_size=64).launch(**layout.launch_options(settings), inbrowser=has_screen and not settings.on_spaces)
    return 0


if __name__ == "__main__":
    sys.exit(main())
