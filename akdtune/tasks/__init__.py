"""Tasks: one file each, found by its name (`task` in a study); `akdtune.training.task` says what one is."""
