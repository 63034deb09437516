# riffusion-train with its dependencies; README.md ("In a container") has the commands.
# INDEX=https://download.pytorch.org/whl/cpu installs the CPU builds of torch and torchaudio: 5 GB less, no GPU.
FROM python:3.11-slim
ARG INDEX=https://pypi.org/simple
WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY conf conf
COPY data_prep data_prep
COPY riffusion_train riffusion_train
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$INDEX" ".[demo,play]" \
    && useradd --create-home musician \
    && chmod 1777 /home/musician
USER musician
# Caches are written there, also when the container runs as another user.
ENV HOME=/home/musician
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["riffusion"]
CMD ["--help"]
