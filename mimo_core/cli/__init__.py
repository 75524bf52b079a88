"""Command-line programs: ``mimo`` and ``mimo-pretrain``."""
