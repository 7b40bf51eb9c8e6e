"""What each call to the backend carries: sequences, KV cache, slices of prompts and their costs."""
