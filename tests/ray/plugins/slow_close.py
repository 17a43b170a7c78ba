"""A plugin for tests: closing a trial's tracking takes three seconds."""

import time

from akdtune.running import tracking

_finish = tracking.Tracker.finish


def finish(self, status, summary):  # type: ignore[no-untyped-def]
    time.sleep(3)
    _finish(self, status, summary)


tracking.Tracker.finish = finish  # type: ignore[method-assign]
