"""vab-rt serve: sounds over HTTP. Only this package imports starlette and uvicorn."""
