"""Commands that list, fetch, describe and remove models."""
