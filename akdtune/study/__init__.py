"""A checked study: sections that fit together, arms, proposals, ids. Nothing is loaded, nothing trains."""
