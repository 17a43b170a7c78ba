"""`python -m akdtune.cli`: the same as `akdtune`."""

from akdtune.cli import main

raise SystemExit(main())
