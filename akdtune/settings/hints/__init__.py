"""What was probably meant: keys without their section, options in place of settings, lists in place of domains."""
