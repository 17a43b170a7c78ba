"""`python -m akdtune.training CONFIG`: one trial in this process, see `akdtune.cli.one_trial`."""

from akdtune.cli.one_trial import main

raise SystemExit(main())
