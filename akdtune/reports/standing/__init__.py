"""How a study stands: its arms, which leads and whether that is more than luck, how far it is, what comes next."""
