"""HTTP: Flask views, the bridge from uvicorn to them, and the driver of answers; no dialect."""
