# vab-rt serve, without PyTorch; docs/SERVER.md says how to run it. Both images are of one Python.
FROM python:3.12.12-bookworm AS build
WORKDIR /src
COPY . .
RUN python -m venv --without-pip /opt/vab-rt && \
    python -m pip --python /opt/vab-rt install --no-cache-dir ".[serve]"

FROM python:3.12.12-slim-bookworm
RUN useradd --system --create-home --uid 10001 vab-rt
COPY --from=build /opt/vab-rt /opt/vab-rt
ENV PATH=/opt/vab-rt/bin:$PATH
USER 10001
WORKDIR /home/vab-rt
EXPOSE 8000
# Asks by the address that the Host check knows, and needs no token.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["vab-rt"]
# Other machines reach it, so it wants VAB_RT_TOKEN and does not start without.
CMD ["serve", "--host", "0.0.0.0"]
