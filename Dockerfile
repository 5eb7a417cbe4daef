# syntax=docker/dockerfile:1
# The HTTP server of clipcls: docs/guides/serve.md shows how to build and run it.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim-trixie AS build
# PyTorch's package index: cpu, or the CUDA version of the machine's driver, such as cu128.
ARG TORCH=cpu
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY licenses licenses
COPY prompts prompts
COPY clipcls clipcls
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir torch torchvision \
        --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && /venv/bin/pip install --no-cache-dir ".[heic,hf,parquet,serve]"

FROM python:${PYTHON}-slim-trixie
RUN useradd --create-home --uid 10001 clipcls \
    && install --directory --owner clipcls /cache /data
COPY --from=build /venv /venv
# Models, graphs and embeddings are kept in the volume. A GPU needs NVIDIA's container toolkit.
ENV PATH="/venv/bin:${PATH}" \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
VOLUME /cache
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["clipcls"]
CMD ["serve", "--host", "0.0.0.0"]
