"""What a long run prints may be lost without harm."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

from akdtune.running import output


def test_a_reader_that_has_left_ends_nothing() -> None:
    code = """
import os, sys
from rich.console import Console
from akdtune.running import output
with output.steady():
    console = Console()
    console.print("lost")
    print("lost, too", flush=True)
    assert not console.is_terminal
sys.exit(7)
"""
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (7, "")


def test_what_rays_threads_print_is_not_shown() -> None:
    shown = io.StringIO()
    before, sys.stdout = sys.stdout, shown
    try:
        with output.steady():
            thread = threading.Thread(target=print, args=("[state-dump]",), name="ray_listen_error_messages")
            thread.start()
            thread.join()
            print("ours")
        assert sys.stdout is shown
    finally:
        sys.stdout = before
    assert shown.getvalue() == "ours\n"
