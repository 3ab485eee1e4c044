# docker build -t lithydra .                          the template with its tested versions; torch brings its CUDA libraries
# docker run --rm -v "$PWD/outputs:/app/outputs" lithydra optimizer=sgd lr=0.1
# docker run --rm --gpus all -v "$PWD/outputs:/app/outputs" -v "$PWD/data:/app/data" lithydra data=cifar10 accelerator=gpu
FROM python:3.11-slim AS development
# Of any version: a Debian release keeps one of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

FROM development
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt --editable ".[sweep]"
COPY conf conf
COPY scripts scripts
COPY train.py ./
ENTRYPOINT ["python", "train.py"]
