# The images of docker-compose.yaml: `airflow` for every Airflow process (the one that a plain `docker build .` makes), and
# `local-site` for Azure and an Azure Stack Hub on one machine. Astro's layout: packages.txt, requirements and project beside it.
#
# On Astro's own runtime instead of the community's image:
#   docker build --build-arg AIRFLOW_IMAGE=<Astro runtime, the "-base" variant> --build-arg AIRFLOW_USER=astro .
# ("-base", because the other variant installs requirements.txt by itself and without the lock.)
ARG AIRFLOW_IMAGE=apache/airflow:slim-3.3.2-python3.11
ARG NODE_IMAGE=node:22-bookworm-slim

FROM ${NODE_IMAGE} AS node

FROM ${AIRFLOW_IMAGE} AS runtime
ARG AIRFLOW_USER=airflow
USER root
COPY packages.txt /tmp/packages.txt
RUN apt-get update \
    && xargs -r apt-get install --yes --no-install-recommends < /tmp/packages.txt \
    && rm -rf /var/lib/apt/lists/* /tmp/packages.txt
# Volumes take the owner of the folder that they are mounted on.
RUN install --directory --owner="${AIRFLOW_USER}" \
        /opt/edge-training /opt/edge-training/.local /opt/edge-training/logs
USER ${AIRFLOW_USER}
WORKDIR /opt/edge-training
# A virtual environment of its own: exactly what the lock says, whatever the image below brought along.
COPY requirements.lock ./
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY airflow_settings.yaml ./
COPY dags dags
COPY plugins plugins
COPY include include
ENV PATH=/opt/edge-training/.venv/bin:${PATH} \
    PYTHONPATH=/opt/edge-training/include:/opt/edge-training/plugins \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/edge-training/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/edge-training/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False

FROM runtime AS local-site
ARG AIRFLOW_USER=airflow
USER root
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
COPY --chown=${AIRFLOW_USER} bin bin
COPY --chown=${AIRFLOW_USER} package.json package-lock.json requirements-dev.lock ./
# What `make demo` installs on a machine, by the same script: Debian's packages as root, the rest as the user that runs it.
# An ordinary user makes the Python base image in a user namespace: that takes uidmap and a range of user ids.
RUN bin/setup system \
    && apt-get install --yes --no-install-recommends uidmap \
    && usermod --add-subuids 200000-265535 --add-subgids 200000-265535 "${AIRFLOW_USER}" \
    && rm -rf /var/lib/apt/lists/* .local/setup
USER ${AIRFLOW_USER}
RUN bin/setup python node

FROM runtime AS airflow
