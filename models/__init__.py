"""The catalogue of models and the bundled one. Knows nothing of engines and HTTP."""
