"""HTTP: Flask views, the bridge to uvicorn, streams, security."""
