"""Prices, budgets and the record of handoffs: what the cloud costs, kept in one SQLite file."""
