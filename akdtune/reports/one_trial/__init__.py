"""One trial of a study, and two beside each other: settings, curve, decisions, time, and the commands for it again."""
