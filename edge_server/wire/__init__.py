"""Wire dialects: JSON becomes typed requests and events become JSON, here and nowhere else."""
