"""How a decision becomes one order, and its fills a position: states, keys, answers, ladder, fills, ledger, paper fills. Pure."""
