#!/usr/bin/env bash
# Training on TPU VMs without Kubernetes: runs the image of Dockerfile.tpu on every host of a slice.
#
#   export NAME=parrot ZONE=us-east5-a PROJECT=my-project
#   export IMAGE=us-east5-docker.pkg.dev/my-project/parrot/parrot-tpu:1
#   tpu_vm.sh create                    queues a v5p slice of 16 chips (TYPE, RUNTIME, SPOT=1)
#   tpu_vm.sh state                     repeat until it prints ACTIVE
#   tpu_vm.sh pull                      pulls the image on all hosts
#   tpu_vm.sh run train configs/train/parrot_ask_llama2_13b_v5p.yaml \
#       --out gs://BUCKET/runs/ask --data.sources.0.path gs://BUCKET/data.jsonl ...
#   tpu_vm.sh logs                      follows the log of the first host
#   tpu_vm.sh stop                      stops the run after saving
#   tpu_vm.sh ssh COMMAND               runs a command on all hosts
#   tpu_vm.sh delete                    deletes the slice
#
# The hosts' service account (SERVICE_ACCOUNT, or the project's default) needs permission to read the
# image and to write to the bucket; no keys are copied. The run continues when this shell ends. jax
# finds the other hosts through the metadata server.
set -euo pipefail

: "${NAME:?the name of the slice}" "${ZONE:?its zone}" "${PROJECT:?its project}"
type=${TYPE:-v5p-32} # the number counts cores, two per chip
runtime=${RUNTIME:-v2-alpha-tpuv5}
restarts=${RESTARTS:-20}
place=(--zone="$ZONE" --project="$PROJECT")

on_hosts() { # WORKER COMMAND
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker="$1" --command="$2"
}

image() { printf '%q' "${IMAGE:?the image of Dockerfile.tpu in a registry}"; }

verb=${1:-}
shift || true
case $verb in
  create)
    flags=()
    if [[ -n ${SPOT:-} ]]; then flags+=(--spot); fi
    if [[ -n ${SERVICE_ACCOUNT:-} ]]; then flags+=(--service-account="$SERVICE_ACCOUNT"); fi
    gcloud compute tpus queued-resources create "$NAME" "${place[@]}" --node-id="$NAME" \
      --accelerator-type="$type" --runtime-version="$runtime" ${flags[@]+"${flags[@]}"}
    ;;
  state)
    gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" \
      --format='value(state.state)'
    ;;
  pull)
    name=$(image)
    on_hosts all "sudo gcloud auth configure-docker ${name%%/*} --quiet && \
      sudo docker pull $name"
    ;;
  run)
    if [[ $# -eq 0 ]]; then
      echo "usage: tpu_vm.sh run train CONFIG [--overrides]" >&2
      exit 2
    fi
    # Removes a stopped container. A running one keeps its name, so that docker rejects a second.
    on_hosts all "sudo docker container prune --force --filter label=app=parrot >/dev/null; \
      sudo docker run --detach --name parrot --label app=parrot --privileged --net=host \
      --ulimit memlock=-1 --volume parrot_cache:/cache $(image) \
      /app/scripts/launch/supervise.sh $restarts \
      parrot $(printf '%q ' "$@") --data.cache-dir=/cache"
    ;;
  logs) on_hosts 0 'sudo docker logs --follow --tail 100 parrot' ;;
  stop) on_hosts all 'sudo docker stop --time 600 parrot' ;;
  ssh) on_hosts all "$*" ;;
  delete) gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force ;;
  *)
    sed -n '/^#   tpu_vm.sh/s/^# //p' "$0" >&2
    exit 2
    ;;
esac
