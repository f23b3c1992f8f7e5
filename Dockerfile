# The image that launch/kubernetes/train.yaml names:
#   docker build -t janus_train:latest .
#   docker run --rm --gpus all --ipc host -v "$PWD/outputs:/outputs" janus_train:latest \
#     accelerate launch train.py +stage=1 output_dir=/outputs/tiny
# /outputs has to be writable for user 10001. The node needs NVIDIA's driver from 580 on; for one from 525 on, CUDA 12.6:
#   docker build -t janus_train:latest --build-arg CUDA=12.6.3 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
ARG CUDA=13.0.2
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04

# CUDA's libraries come with torch. gcc and Python's headers are for Triton, which compiles at the first step.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3.12-dev python3.12-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/venv \
    && useradd --create-home --uid 10001 janus
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /workspace
COPY constraints.txt ./
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir -c constraints.txt torch ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e .

USER 10001
ENTRYPOINT ["tini", "--"]
CMD ["janus-train", "--help"]
