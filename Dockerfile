# riffusion-train with its dependencies. To use GPUs, run the container with --gpus all.
FROM python:3.11-slim
WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY conf conf
COPY data_prep data_prep
COPY riffusion_train riffusion_train
RUN pip install --no-cache-dir --constraint constraints.txt ".[demo,play,tensorboard]" \
    && useradd --create-home musician
USER musician
WORKDIR /home/musician
ENTRYPOINT ["riffusion"]
CMD ["--help"]
