"""Budgets, prices, circuit breakers and retries of cloud providers."""
