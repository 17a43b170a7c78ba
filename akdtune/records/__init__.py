"""What a study leaves on disk: formats of files, tables of trials and epochs, the ledger, its directories.

Knows neither torch nor settings nor components: what a row means is said by columns and events.
"""
